"""`inoculate report`: where the command puts the page. tests/report tests what is in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from recorded_samples import recorded
from report_samples import clean, row

from inoculate.artifacts.rows import write_rows


@pytest.mark.smoke
def test_the_page_and_the_figures_go_where_they_are_wanted(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, page = tmp_path / "rows.json", tmp_path / "pages" / "page.html"
    write_rows(rows, [clean("a", "standard", 95), row("a")])
    assert call("report", rows) == 0
    assert f"{tmp_path / 'rows.html'}: 0.0 MB" in capsys.readouterr().out
    assert call("report", rows, "--out", page, "--figures", tmp_path / "figures") == 0
    assert page.read_text() == (tmp_path / "rows.html").read_text()
    assert list((tmp_path / "figures").glob("*.png"))


def test_several_are_compared_on_one_page(
    call: Callable[..., int], refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [recorded(tmp_path / name, [0.5, 0.02, 0.5], model=name) for name in ("one", "two")]
    assert call("report", *folders) == 0
    assert "one or two?" in (tmp_path / "comparison.html").read_text()
    assert "given twice" in refused("report", folders[0], folders[0])


def test_mistakes_are_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "results.json" in refused("report", tmp_path / "nowhere")
    (tmp_path / "rows.json").write_text("[{}]")
    assert "row 1: field 'dataset' is missing" in refused("report", tmp_path / "rows.json")


def test_evidence_is_written_and_verified(
    call: Callable[..., int], refused: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, pack = tmp_path / "run", tmp_path / "pack"
    write_rows(run / "results.json", [clean("a", "standard", 95), row("a")])
    assert call("report", run, "--evidence", pack) == 0
    assert {path.name for path in pack.iterdir()} == {"evidence.json", "evidence.html"}
    assert not (run / "report.html").exists(), "the run is left as it is"
    assert call("report", run, "--verify", pack) == 0
    assert "3 of 3 parts unchanged" in capsys.readouterr().out
    write_rows(run / "results.json", [clean("a", "standard", 95), row("a", correct=51)])
    assert call("report", run, "--verify", pack) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("missed: 3 of 3 requirements: results.json: changed")
    assert "give it alone" in refused("report", run, "--evidence", pack, "--verify", pack)
    assert "give it alone" in refused("report", run, "--evidence", pack, "--out", tmp_path / "page.html")
    assert "write it with inoculate report" in refused("report", run, "--verify", tmp_path)
