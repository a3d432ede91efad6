"""`inoculate study`: what the commands print and write. The studies themselves are tested as functions."""

import shutil

import pytest
import yaml
from study_samples import run, tiny

from inoculate.artifacts.rows import read_rows
from inoculate.study.result import StudyRun

STUDY = tiny(
    models=["small_cnn"], surrogate="small_cnn", arms=["standard", "augmented", "transferred"], limit=80,
    explanations={"images": 2, "stability": 2, "fragility": 2, "steps": 2, "search": 2, "arms": ["standard"]},
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a study file and its finished run."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.yaml").write_text("# Small, for tests.\n" + yaml.safe_dump(STUDY))
    run(folder / "out", folder / "study.yaml")
    return folder


def test_run_prints_the_tables_and_writes_the_whole_folder(call, finished, tmp_path, capsys):
    out = tmp_path / "out"
    assert call("study", "run", finished / "study.yaml", "--out", out, "--store", finished / "out" / "store") == 0
    printed = capsys.readouterr().out
    for text in ("Table 1", "Table 2", "Table 3", "Table 4", "(b)", "report.html", "nothing was computed again"):
        assert text in printed
    names = {path.name for path in out.rglob("*") if path.is_file()}
    assert {"results.json", "records.npz", "manifest.json", "report.html", "explain.json"} <= names
    assert {"tables.md", "tables.csv", "tables.tex"} <= names
    assert any(name.endswith(".png") for name in names)
    assert any(name.endswith(".svg") for name in names)
    assert read_rows(out / "results.json") == list(StudyRun.load(finished / "out"))
    html = (out / "report.html").read_text()
    assert '<article class="case"' in html
    assert "Smallest eps per network" in html


def test_report_needs_no_store(call, finished, tmp_path):
    out = shutil.copytree(finished / "out", tmp_path / "out", ignore=shutil.ignore_patterns("store"))
    assert call("report", out) == 0
    html = (out / "report.html").read_text()
    assert call("report", out) == 0
    assert (out / "report.html").read_text() == html


def test_an_interrupted_run_reports_what_was_measured(call, finished, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(finished / "out", out)
    (out / "results.json").unlink()
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY | {"models": ["small_cnn", "resnet81"]}))
    assert call("study", "run", tmp_path / "study.yaml", "--out", out) == 2
    assert "did you mean" in capsys.readouterr().err
    assert read_rows(out / "results.json")
    assert (out / "report.html").is_file()


def test_plan_lists_the_steps(call, finished, capsys):
    assert call("study", "plan", finished / "study.yaml") == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.split(maxsplit=1) == ["1", "digits: train small_cnn (standard)"]
    assert "explain small_cnn (standard)" in last


def test_list_shows_the_shipped_studies_with_their_first_line(call, capsys):
    assert call("study", "list") == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["demo"].startswith("The paper in a few minutes")
    assert "paper" in lines


def test_mistakes_are_one_line_before_anything_is_trained(finished, tmp_path, refused):
    (tmp_path / "taken").write_text("")
    run_it = ("study", "run", finished / "study.yaml", "--out", tmp_path / "out")
    assert "only 'mnist' is unknown" in refused(*run_it, "--only", "mnist")
    assert "--limit" in refused(*run_it, "--limit", "0")
    assert "class" in refused(*run_it, "--limit", "12")
    assert "taken" in refused("study", "run", finished / "study.yaml", "--out", tmp_path / "taken")
    (tmp_path / "unknown.yaml").write_text(yaml.safe_dump(STUDY | {"models": ["small_cnn", "resnet81"]}))
    assert "did you mean 'resnet" in refused("study", "run", tmp_path / "unknown.yaml", "--out", tmp_path / "out")
    assert not list((tmp_path / "out").glob("store/fit/*/manifest.json"))
