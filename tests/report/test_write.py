"""Where a report goes, what it is made from, and what is written beside it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from page_samples import explained, whole_run
from report_samples import clean, row

from inoculate.artifacts.files import write_json
from inoculate.artifacts.rows import write_records, write_rows
from inoculate.core.errors import InputError
from inoculate.core.row import Row
from inoculate.report.plots.accuracy_files import write_accuracy_figures
from inoculate.report.write import write_report


def shapes() -> list[Row]:
    """Two networks and four arms on one dataset."""
    rows = []
    for model in ("net_a", "net_b"):
        for arm in ("standard", "noise", "transferred", "trades"):
            rows.append(clean(model, arm, 95, dataset="owner/shapes"))
            for eps in (0.1, 0.2):
                rows.append(row(model, arm, eps=eps, correct=50, dataset="owner/shapes"))
                rows.append(row(model, arm, "pgd", eps, 5, 20, dataset="owner/shapes"))
                protocol = f"transfer:{model}/standard"
                if arm != "standard":
                    rows.append(row(model, arm, eps=eps, correct=70, protocol=protocol, dataset="owner/shapes"))
    return rows


def hardened(folder: Path, arm: str = "pgd_at") -> Path:
    """A folder as `harden` leaves it."""
    before = [clean("before", "standard", 95), row("before", correct=10), row("before", attack="pgd", correct=1)]
    after = [clean("net", arm, 90), row("net", arm, correct=60), row("net", arm, "pgd", correct=45)]
    write_rows(folder / "results.json", [*before, *after])
    history = [
        {"update": 10, "val_accuracy": 0.8, "val_robust": 0.3},
        {"update": 20, "val_accuracy": 0.9, "val_robust": 0.5},
    ]
    write_json(folder / "history.json", history)
    write_json(folder / "model.json", {"model": {"name": "net"}, "method": {"method": arm}})
    return folder


@dataclass(frozen=True)
class SomeResult:
    """A result of a job, as far as a report needs it."""

    rows: Sequence[Row]

    def save(self, folder: Path) -> None:
        write_rows(folder / "results.json", self.rows)


@dataclass(frozen=True)
class StoredResult(SomeResult):
    """The same, in a folder."""

    folder: Path


@pytest.mark.smoke
def test_a_folder_receives_page_tables_and_figures(tmp_path: Path) -> None:
    rows = shapes()
    write_rows(tmp_path / "results.json", rows)
    write_records(tmp_path / "records.npz", {item.key: np.arange(item.n) < item.correct for item in rows})
    facts = {"surrogates": {"owner/shapes": "net_a"}, "parameters": {"net_a": 2, "net_b": 1}}
    write_json(tmp_path / "manifest.json", facts)
    for _ in range(2):  # once more over what is there
        assert write_report(tmp_path) == tmp_path / "report.html"
    names = {path.name for path in tmp_path.iterdir()}
    made = {"report.html", "tables.md", "tables.csv", "tables.tex", "figures"}
    assert names == {"results.json", "records.npz", "manifest.json", *made}
    page = (tmp_path / "tables.md").read_text()
    assert page.startswith("# Results\n\n## What the numbers say\n")
    assert "- owner/shapes (a) replayed: **supported**. Training on net_a's examples raised" in page
    assert "### owner/shapes: where the gain comes from" in page
    stem = tmp_path / "figures" / "owner_shapes-accuracy-against-eps"
    assert stem.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in stem.with_suffix(".svg").read_text()


def test_a_page_elsewhere_leaves_the_folder_alone(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "run" / "results.json", [clean("a", "standard", 95), row("a")])
    page, figures = tmp_path / "pages" / "page.html", tmp_path / "figures"
    assert write_report(tmp_path / "run", page, figures=figures) == page
    assert [path.name for path in rows.parent.iterdir()] == ["results.json"]
    assert [path.name for path in figures.iterdir()] == ["mnist-linf-accuracy-white-box-a.png"]


@pytest.mark.smoke
def test_a_file_of_rows_has_its_page_beside_it(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "mine.json", [row()])
    assert write_report(str(rows)) == tmp_path / "mine.html"
    assert {path.name for path in tmp_path.iterdir()} == {"mine.json", "mine.html"}
    rows.write_text("[{}]")
    with pytest.raises(InputError, match="row 1: field 'dataset' is missing"):
        write_report(rows)


def test_a_result_is_reported_as_its_folder_would_be(tmp_path: Path) -> None:
    rows = [clean("a", "standard", 95), row("a")]
    write_rows(tmp_path / "run" / "results.json", rows)
    page = write_report(SomeResult(rows), tmp_path / "page.html")
    assert page.read_text() == write_report(tmp_path / "run").read_text()
    stored = StoredResult(rows, tmp_path / "stored")
    stored.save(tmp_path / "stored")
    assert write_report(stored) == tmp_path / "stored" / "report.html"
    with pytest.raises(InputError, match="give the path of its page"):
        write_report(SomeResult(rows))
    with pytest.raises(InputError, match="cannot report on list"):
        write_report(rows, tmp_path / "page.html")  # type: ignore[arg-type]


def test_an_explanation_alone_is_shown(tmp_path: Path) -> None:
    explained("pets", "a", "standard").save(tmp_path)
    html = write_report(tmp_path).read_text()
    assert "a on pets: robustness report" in html
    assert "Attacked images" in html
    assert "No attack has been measured." in html
    assert not (tmp_path / "tables.md").exists()


def test_a_hardened_model_is_shown_before_and_after(tmp_path: Path) -> None:
    html = write_report(hardened(tmp_path)).read_text()
    assert "net on mnist, hardened: robustness report" in html
    said = "Under PGD at eps 0.01 it keeps 45.0 %; before hardening 1.0 %."
    assert said in html.replace("\N{NO-BREAK SPACE}", " ")
    assert "after (pgd_at)" in html
    assert "+44.0" in html
    assert "where the gain comes from" not in html
    assert "validation accuracy" in html
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "history.json", "model.json", "report.html"}


def test_a_model_whose_weights_were_left_as_they_were_is_shown_too(tmp_path: Path) -> None:
    assert "after (after)" not in write_report(hardened(tmp_path, arm="standard")).read_text()


def test_a_trained_model_is_shown_by_its_history(tmp_path: Path) -> None:
    (hardened(tmp_path) / "results.json").unlink()
    html = write_report(tmp_path).read_text()
    assert "net, trained: robustness report" in html
    assert "Validation accuracy 90.0 % after 20 updates." in html


def test_a_study_keeps_its_figures(tmp_path: Path) -> None:
    folder = whole_run(tmp_path, datasets=("mnist",), models=("resnet18",))
    html = write_report(folder).read_text()
    drawn = {path.name for path in (folder / "figures").iterdir()} - {"mnist-accuracy-against-eps.svg"}
    assert html.count("<svg ") == len(drawn) - 1


def test_a_report_of_no_rows(tmp_path: Path) -> None:
    write_rows(tmp_path / "results.json", [])
    assert "Nothing has been measured yet." in write_report(tmp_path).read_text()
    assert (tmp_path / "tables.md").read_text() == "# Results\n\n## Tables\n\n"


def test_clean_rows_alone_draw_nothing(tmp_path: Path) -> None:
    assert write_accuracy_figures([clean("resnet18", "standard", 90)], "mnist", tmp_path) == []
    assert write_accuracy_figures([row()], "cifar10", tmp_path) == []


def test_one_row_draws(tmp_path: Path) -> None:
    paths = write_accuracy_figures([row(eps=eps / 100) for eps in range(1, 12)], "mnist", tmp_path)
    assert [path.suffix for path in paths] == [".png", ".svg"]


def test_reading_results_loads_neither_torch_nor_plotting(tmp_path: Path) -> None:
    write_rows(tmp_path / "results.json", [row()])
    code = (
        "import sys, inoculate.report.write as write, inoculate.report.run as run\n"
        "from inoculate.report.claims import claims\n"
        "from inoculate.report.tables.paper import paper_tables\n"
        "record = run.read_run(write.Path(sys.argv[1])); paper_tables(record.rows), claims(record.rows)\n"
        "print([name for name in ('torch', 'matplotlib', 'scipy') if name in sys.modules])\n"
        "write.write_report(sys.argv[1])\n"
        "print([name for name in ('torch', 'captum', 'scipy.stats', 'matplotlib.pyplot') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"
