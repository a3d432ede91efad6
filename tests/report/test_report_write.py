from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from report_samples import clean, row

from inoculate.artifacts.rows import read_records, read_rows
from inoculate.core.row import Row
from inoculate.report.figures import accuracy_against_eps
from inoculate.report.write import write_report


def shapes() -> list[Row]:
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


def test_a_report_is_whole_and_can_be_written_again(tmp_path: Path) -> None:
    rows = shapes()
    records = {item.key: np.arange(item.n) < item.correct for item in rows}
    for _ in range(2):
        paths = write_report(tmp_path, rows, records, {"owner/shapes": "net_a"}, {"net_a": 2, "net_b": 1})
    stem = "figures/owner_shapes-accuracy-against-eps"
    names = ["results.json", "records.npz", "tables.md", "tables.csv", "tables.tex", f"{stem}.png", f"{stem}.svg"]
    assert [str(path.relative_to(tmp_path)) for path in paths] == names
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(names)
    assert read_rows(tmp_path / "results.json") == rows
    assert len(read_records(tmp_path / "records.npz")) == len(rows)
    page = (tmp_path / "tables.md").read_text()
    assert page.startswith("# Results\n\n## What the numbers say\n")
    assert "- owner/shapes (a) replayed: **supported**. Training on net_a's examples raised" in page
    assert "### owner/shapes: where the gain comes from" in page
    assert (tmp_path / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / f"{stem}.svg").read_text()


def test_a_report_of_nothing_yet(tmp_path: Path) -> None:
    paths = write_report(tmp_path, [])
    assert [path.name for path in paths] == ["results.json", "tables.md", "tables.csv", "tables.tex"]
    assert paths[1].read_text() == "# Results\n\n## Tables\n\n"


def test_clean_rows_alone_draw_nothing(tmp_path: Path) -> None:
    assert accuracy_against_eps([clean("resnet18", "standard", 90)], "mnist", tmp_path) == []
    assert accuracy_against_eps([row()], "cifar10", tmp_path) == []


def test_one_row_draws(tmp_path: Path) -> None:
    paths = accuracy_against_eps([row(eps=eps / 100) for eps in range(1, 12)], "mnist", tmp_path)
    assert [path.suffix for path in paths] == [".png", ".svg"]


def test_reading_results_loads_neither_torch_nor_plotting(tmp_path: Path) -> None:
    code = (
        "import sys, inoculate.report.write as w, inoculate.report.tables as t, inoculate.report.claims as c\n"
        "from inoculate.core.row import Row\n"
        "row = Row('mnist', 'a1', 'standard', 'fgsm', 'linf', .1, 'white-box', .5, 5, 10, .2, .8, 0, 0.0)\n"
        "t.to_markdown(t.paper_tables([row])), c.claims([row])\n"
        "print([name for name in ('torch', 'matplotlib', 'scipy') if name in sys.modules])\n"
        "w.write_report(sys.argv[1], [row])\n"
        "print([name for name in ('torch', 'matplotlib.pyplot') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"
