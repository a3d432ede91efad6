"""Several models on one page: which of them to ship, and what cannot be compared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from page_samples import whole_run
from recorded_samples import recorded

from inoculate.core.errors import InputError
from inoculate.report.write import write_report

STRONG, WEAK = [0.5] * 30 + [0.0] * 2, [0.5] * 4 + [0.02] * 28


def compare(tmp_path: Path, one: list[float], other: list[float], **options: object) -> str:
    a = recorded(tmp_path / "a", one, model="first", **options)  # type: ignore[arg-type]
    b = recorded(tmp_path / "b", other, model="second", **options)  # type: ignore[arg-type]
    return write_report([a, b], tmp_path / "page.html").read_text().replace("\N{NO-BREAK SPACE}", " ")


def test_the_one_that_keeps_more_is_to_be_shipped(tmp_path: Path) -> None:
    html = compare(tmp_path, WEAK, STRONG)
    assert "<h1>first or second? Robustness on MNIST</h1>" in html
    assert "<strong>second.</strong>" in html
    assert "second keeps 93.8 %, first 12.5 %: +81.2 points" in html
    assert "paired over images" in html
    assert "first 100.0 %, second 93.8 %" in html
    assert re.search(r"first: a “\w+” at eps 0.03; second: a “\w+” without any attack", html)


def test_the_largest_difference_is_said_where_it_is_at_another_eps(tmp_path: Path) -> None:
    html = compare(tmp_path, [0.005] * 28 + [0.5] * 4, [0.02] * 20 + [0.5] * 12)
    assert "under PGD at eps 0.01 second keeps 100.0 %, first 12.5 %: +87.5 points" in html.replace("Under", "under")
    assert "At eps 0.03: second 37.5 %, first 12.5 %." in html
    assert re.search(r"first: \w+; second: up to eps 0.01, no longer at 0.03\.", html)
    assert "At eps" not in compare(tmp_path, WEAK, STRONG)


def test_a_difference_that_may_be_chance_decides_nothing(tmp_path: Path) -> None:
    html = compare(tmp_path, [0.5] * 20 + [0.02] * 12, [0.5] * 19 + [0.02] * 12 + [0.5])
    assert "Not decided: the difference may be chance" in html


def test_other_images_are_not_paired(tmp_path: Path) -> None:
    a = recorded(tmp_path / "a", WEAK, model="first")
    b = recorded(tmp_path / "b", STRONG[:-1], model="second")
    assert "points [" in (html := write_report([a, b], tmp_path / "page.html").read_text())
    assert "unpaired" in html


def test_models_of_one_name_have_the_names_of_their_folders(tmp_path: Path) -> None:
    a, b = (recorded(tmp_path / name, WEAK, model="resnet18") for name in ("old", "new"))
    assert "<h1>new or old? Robustness on MNIST</h1>" in write_report([a, b], tmp_path / "page.html").read_text()
    with pytest.raises(InputError, match="given twice"):
        write_report([a, a], tmp_path / "page.html")


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    a, study = recorded(tmp_path / "a", WEAK), whole_run(tmp_path / "study")
    with pytest.raises(InputError, match="one each"):
        write_report([a, study], tmp_path / "page.html")
    with pytest.raises(InputError, match="two models or more"):
        write_report([a], tmp_path / "page.html")
    rows = (recorded(tmp_path / "b", WEAK) / "results.json").read_text()
    (tmp_path / "b" / "results.json").write_text(rows.replace('"mnist"', '"cifar10"').replace('"net"', '"other"'))
    with pytest.raises(InputError, match="different data"):
        write_report([a, tmp_path / "b"], tmp_path / "page.html")


def test_checks_are_named_after_their_model(tmp_path: Path) -> None:
    a = recorded(tmp_path / "a", WEAK, model="first")
    b = recorded(tmp_path / "b", STRONG, model="second", checks=(True, False))
    html = write_report([a, b], tmp_path / "page.html").read_text()
    assert "Check failed: second: check 1" in html
    assert "No, not before the failed check is resolved" in html
