"""The main figure of a result in a notebook."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import torch
from evaluation_samples import Brightness, measured
from page_samples import explained
from report_samples import clean, row

from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.report.notebook import main_figure


def drawn(html: str) -> ElementTree.Element:
    """The figure, which must be well-formed."""
    return ElementTree.fromstring(html)


def test_every_condition_has_its_bar_with_interval_and_number():
    html = main_figure([clean("net", "standard", 90), row("net", correct=40), row("net", eps=0.1, correct=10)])
    figure = drawn(html)
    words = figure.attrib["aria-label"]
    assert "Clean images: 90.0 %" in words
    assert "40.0 %" in words
    assert "10.0 %" in words
    widths = [each.attrib["width"] for each in figure.iter() if each.tag.endswith("rect")]
    assert widths == ["500", "450.0", "500", "200.0", "500", "50.0"]
    assert html.count("<path") == 3
    assert "95 % interval 30.9 % to 49.8 %".replace(" %", "") in html.replace(" %", "")


def test_two_networks_have_a_key_and_two_datasets_two_figures():
    rows = [each for name in ("a", "b") for each in (clean(name, "standard", 90), row(name, correct=40))]
    html = main_figure(rows + [replace(each, dataset="other") for each in rows])
    figures = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(figures) == 2
    texts = [each.text for each in drawn(figures[0]).iter() if each.tag.endswith("text")]
    assert texts[1:3] == ["a", "b"]


def test_a_hardening_shows_before_and_after():
    rows = [
        clean("before", "standard", 90),
        row("before"),
        clean("net", "pgd_at", 80),
        row("net", "pgd_at", correct=70),
    ]
    texts = [each.text for each in drawn(main_figure(rows)).iter() if each.tag.endswith("text")]
    assert texts[1:3] == ["before hardening", "after hardening (pgd_at)"]


def test_without_an_attack_there_is_no_figure():
    assert main_figure([]) == main_figure([clean("net", "standard", 90)]) == ""


def test_names_are_escaped_and_nothing_is_loaded():
    name = "<script>alert(1)</script>"
    rows = [clean("a", "standard", 90), row("a"), clean("b", "standard", 90), row("b")]
    html = main_figure([replace(each, dataset=name, model=each.model + name) for each in rows])
    assert "<script" not in html
    assert "href" not in html
    drawn(html)


def test_an_explanation_shows_its_images():
    explanation = explained("mnist", "net", "standard")
    html = explanation._repr_html_()
    assert html.startswith("<table>")
    assert html.count("<img") >= 3 * len(explanation.facts["images"])
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]+)', html))
    assert all(len(alt) > 3 for alt in re.findall(r'alt="([^"]*)"', html))
    assert len(html) < 2_000_000


def test_an_evaluation_shows_its_table_and_then_its_figure():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (20, 1, 4, 4), dtype=np.uint8))
    data = Dataset.from_tensors(images, torch.arange(20) % 2)
    html = measured(Brightness(), data, ["fgsm"], [Threat("linf", 0.1)])._repr_html_()
    assert html.startswith("<table>")
    assert html.index("</table>") < html.index("<svg")
