"""The result of a study: a sequence of rows that is saved, loaded and shown."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from study_samples import run, tiny

from inoculate.core.errors import InputError
from inoculate.core.row import Row
from inoculate.study.result import StudyRun

COMMITTED = sorted(path.parent for path in (Path(__file__).parents[2] / "results").glob("*/results.json"))
EXPLAINED = tiny(
    models=["test_resnet"], surrogate="test_resnet", arms=["standard", "transferred", "duplicates"],
    explanations={"images": 3, "stability": 4, "fragility": 6, "steps": 4, "search": 4},
)  # fmt: skip


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained")
    return folder, *run(folder, EXPLAINED)


def test_a_result_is_a_sequence_of_rows_with_columns_and_per_image_results(finished):
    assert list(finished) == list(finished.rows)
    assert finished[0] == finished.rows[0]
    assert len(finished.table()["accuracy"]) == len(finished)
    assert list(finished.table()) == [field.name for field in fields(Row)]
    for row, right in finished.per_image.items():
        assert (len(right), right.sum()) == (row.n, row.correct)
    assert len(finished.per_image) == len(finished)
    assert "<table" in finished._repr_html_()
    assert "<svg" in finished._repr_html_()
    assert set(finished.parameters) == {"small_cnn", "test_resnet"}
    assert finished.surrogates["digits"] in finished.parameters
    assert finished.made == len(finished.manifest["cells"])


def test_a_result_is_saved_where_it_was_made_and_loads_back(finished, folder, tmp_path):
    for loaded in (StudyRun.load(folder), StudyRun.load(finished.save(tmp_path / "copy"))):
        assert list(loaded) == list(finished)
        assert loaded.manifest == json.loads(json.dumps(finished.manifest))
        assert loaded.records.keys() == finished.records.keys()
        assert all(np.array_equal(loaded.records[key], right) for key, right in finished.records.items())
    with pytest.raises(InputError, match=r"holds no results\.json"):
        StudyRun.load(tmp_path)


def test_the_manifest_says_what_was_run_on_what(finished):
    manifest = finished.manifest
    assert manifest["versions"]["torch"]
    assert manifest["study"]["seeds"] == [0]
    assert manifest["datasets"]["digits"]["digest"]
    assert set(manifest["datasets"]["digits"]["indices"]) == {"0"}
    labels = manifest["datasets"]["digits"]["labels"]["0"].split()
    assert len(labels) == max(len(right) for right in finished.records.values())
    assert set(labels) == set(map(str, range(10)))
    for cell in manifest["cells"]:
        assert {"cell", "kind", "dataset", "seed", "model", "arm", "made", "artefact", "seconds"} <= cell.keys()
        assert ("history" in cell) == (cell["kind"] == "fit")


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.name)
def test_committed_results_load(folder):
    committed = StudyRun.load(folder)
    assert committed.rows
    assert len(committed.per_image) == len(committed)


def test_networks_are_explained_on_the_same_images(explained):
    _, result, recorder = explained
    made = [(cell.model, cell.arm) for cell in recorder.made if cell.kind == "explain"]
    assert made == [("test_resnet", "standard"), ("test_resnet", "transferred")], "no control is explained"
    standard, transferred = result.explanations
    assert [each.key for each in result.explanations] == [("digits", *network) for network in made]
    shown = [image["row"] for image in standard.facts["images"]]
    assert 0 < len(shown) <= 3
    assert [image["row"] for image in transferred.facts["images"]] == shown
    assert all(image["clean"]["predicted"] == image["label"] for image in standard.facts["images"])
    assert all("replayed" in image for image in transferred.facts["images"])
    assert standard.facts["eps"] == 8 / 255
    assert len(standard.facts["fragility"]["measured"]) == 6


def test_explanations_are_saved_in_place_of_earlier_ones(explained, tmp_path):
    folder, result, _ = explained
    loaded = StudyRun.load(folder)
    assert [dict(each.facts) for each in loaded.explanations] == [dict(each.facts) for each in result.explanations]
    fewer = StudyRun(result.rows, result.records, result.manifest, result.explanations[:1])
    result.save(tmp_path)
    assert len(StudyRun.load(fewer.save(tmp_path)).explanations) == 1


def test_other_amounts_are_explained_without_another_training(explained):
    folder, _, _ = explained
    amounts = EXPLAINED["explanations"] | {"images": 2}
    _, recorder = run(folder.parent / "other", EXPLAINED | {"explanations": amounts}, store=folder / "store")
    assert {cell.kind for cell in recorder.made} <= {"explain"}


def test_results_are_read_without_torch():
    code = (
        "import sys, inoculate.study.plan, inoculate.study.specs, inoculate.study.observer, inoculate.study.load\n"
        "from inoculate.study.result import StudyRun\n"
        f"StudyRun.load({str(COMMITTED[0])!r})\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_result_is_reported_as_tables_claims_and_a_page(finished, folder, tmp_path):
    assert any("Table 1" in table.title for table in finished.tables)
    assert {"b", "d"} <= {claim.letter for claim in finished.claims}
    page = finished.report(tmp_path / "page.html")
    assert page.read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["page.html"]
    assert StudyRun.load(folder).report() == folder / "report.html"
    assert {"tables.md", "tables.csv", "tables.tex", "figures"} <= {path.name for path in folder.iterdir()}
