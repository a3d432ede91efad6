"""The page as text: whole for a whole run, and for any part of one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from page_samples import explained, rows_of, whole_run
from report_samples import clean, row

from inoculate.artifacts.rows import write_rows
from inoculate.attribution.explanation import save_explanations
from inoculate.core.errors import InputError
from inoculate.report.html.images import shown_images
from inoculate.report.html.page import render
from inoculate.report.run import read_run
from inoculate.report.write import write_report


class Outline(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def ids(self) -> list[str]:
        return [attrs["id"] or "" for _, attrs in self.tags if "id" in attrs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_run(tmp_path_factory.mktemp("run"), datasets=("mnist",), models=("resnet18",))


def test_a_whole_run_shows_everything(tmp_path: Path) -> None:
    html = render(read_run(whole_run(tmp_path)), tmp_path)
    for part in (
        *("Summary", "Table 1", "Table 4", "where the gain comes from", "Accuracy against eps"),
        *("Transfer between networks", "Attacked images", "Attribution stability", "Margin and gradient norm"),
        *("Training", "Networks compared", "By image size", "Checks", "Compute time", "Glossary", "97.43"),
    ):
        assert part in html, part
    outline = Outline(html)
    assert len(outline.ids()) == len(set(outline.ids()))
    links = {attrs["href"] for tag, attrs in outline.tags if tag == "a"}
    assert links == {f"#{name}" for name in outline.ids()} & links
    assert html.count("<svg ") == len(list(tmp_path.glob("*.png"))) > 30


def test_nothing_is_fetched_and_no_name_becomes_markup(folder: Path) -> None:
    html = render(read_run(folder))
    addresses = [
        attrs[name] or "" for _, attrs in Outline(html).tags for name in ("src", "href", "xlink:href") if name in attrs
    ]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert "url(" not in html.replace("url(#", "")
    assert "@import" not in html
    assert "<b>dog</b>" not in html
    assert "cat &amp; &lt;b&gt;dog&lt;/b&gt;" in html


def test_the_same_run_gives_the_same_page(folder: Path) -> None:
    assert render(read_run(folder)) == render(read_run(folder))


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        ("explanations", ("Attacked images", "Margin and gradient norm", "Networks compared")),
        ("manifest.json", ("validation accuracy",)),
        ("checks.json", (">Checks<",)),
        ("records.npz", ()),
    ],
)
def test_what_is_missing_is_left_out(folder: Path, tmp_path: Path, missing: str, gone: tuple[str, ...]) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "run"))
    shutil.rmtree(copied / missing) if (copied / missing).is_dir() else (copied / missing).unlink()
    html = render(read_run(copied))
    assert "Table 2" in html
    for part in gone:
        assert part not in html


def test_rows_alone_are_enough(tmp_path: Path) -> None:
    one = [clean("mine.py:net", "standard", 95), row("mine.py:net", attack="pgd", correct=3)]
    for rows in (one, one[:1], one[1:], []):
        html = render(read_run(write_rows(tmp_path / "mine.json", rows)))
        assert html.startswith("<!doctype html>")
    html = render(read_run(write_rows(tmp_path / "mine.json", one)))
    assert "3.0 % [1.0, 8.5] under PGD at eps 0.01" in html.replace("\N{NO-BREAK SPACE}", " ")
    l2 = [row(attack="pgd", norm="l2", eps=0.5), row(attack="pgd")]
    html = render(read_run(write_rows(tmp_path / "both.json", l2)))
    assert html.count('<section class="dataset"') == 2


def test_a_folder_without_rows_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no results\.json"):
        read_run(tmp_path)
    write_rows(tmp_path / "results.json", rows_of("mnist"))
    (tmp_path / "checks.json").write_text("[]")
    with pytest.raises(InputError, match=r"checks\.json"):
        read_run(tmp_path)


def test_explanations_of_an_earlier_run_do_not_stay(folder: Path, tmp_path: Path) -> None:
    save_explanations(tmp_path, [explained("a", "m", "standard"), explained("a", "m", "trades")])
    save_explanations(tmp_path, [explained("a", "m", "standard")])
    assert [path.name for path in (tmp_path / "explanations").iterdir()] == ["a-m-standard"]


def test_an_image_that_was_wrong_before_the_attack_is_not_called_fooled() -> None:
    each = explained("pets", "a", "standard")  # attacked, all are taken for class 1; labels are 0, 1, 0
    each.facts["images"][2]["clean"]["predicted"] = 1
    assert [image.arms[0].outcome for image in shown_images([each])] == ["fooled", "correct", "misclassified clean"]


def test_large_images_are_left_out_until_the_page_is_small_enough(tmp_path: Path) -> None:
    many = [explained("pets", model, arm, 128, 6) for model in ("a", "b") for arm in ("standard", "transferred")]
    everything, few = shown_images(many, 10**9), shown_images(many, 1_000_000)
    assert len(everything) == 12
    assert len(few) < 12
    assert {each.model for each in few} == {"a", "b"}, "every network keeps as many images"
    weight = sum(len(uri) for each in few for arm in each.arms for _, uri in arm.pictures.values())
    assert weight <= 1_000_000
    large = whole_run(tmp_path, shown=12, side=160, datasets=("mnist",), models=("resnet18",))
    page = write_report(large, tmp_path / "page.html")
    assert 2e6 < page.stat().st_size < 8e6


def test_a_page_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from inoculate.report.run import read_run\n"
        "from inoculate.report.html.page import render; render(read_run(Path(sys.argv[1])))\n"
        "print([name for name in ('torch', 'captum', 'scipy.stats') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
