"""A run whose store is gone goes on from the results that an earlier run left in its folder."""

import shutil

import numpy as np
import pytest
from study_samples import TINY, numbers, run, tiny

from inoculate.core.errors import InputError
from inoculate.study import code
from inoculate.study.result import StudyRun

ARMS = ["standard", "noise"]


@pytest.fixture
def storeless(folder):
    """The results of the tiny study, without its artefacts."""
    shutil.rmtree(folder / "store")
    return folder


def cells_of(result):
    left_out = {"made"}
    return [{key: each[key] for key in each.keys() - left_out} for each in result.manifest["cells"]]


def test_nothing_is_computed_again_without_the_store(storeless, finished):
    again, recorder = run(storeless, TINY)
    assert not recorder.made
    assert numbers(again) == numbers(finished)
    assert [row.as_dict() for row in again] == [row.as_dict() for row in finished]
    assert all(np.array_equal(again.records[key], right) for key, right in finished.records.items())
    assert cells_of(again) == cells_of(finished)
    assert (again.surrogates, again.parameters) == (finished.surrogates, finished.parameters)
    assert again.manifest["datasets"] == finished.manifest["datasets"]
    assert not list(storeless.glob("store/fit/*")), "networks cannot be restored, and nothing needs them"


def test_one_more_attack_trains_only_the_network_that_it_needs(storeless, finished):
    more = {"steps": 2, "models": ["small_cnn"], "arms": ["noise"]}
    result, recorder = run(storeless, tiny(attacks=TINY["attacks"] | {"bim": more}))
    made = [(cell.kind, cell.model, cell.arm, cell.attack) for cell in recorder.made]
    craft = [("craft", model, "standard", "bim") for model in TINY["models"]]
    assert set(made) - {("fit", model, "standard", "") for model in TINY["models"]} - set(craft) == {
        ("fit", "small_cnn", "noise", ""),
        ("evaluate", "small_cnn", "noise", "bim"),
    }
    assert numbers(finished).items() <= numbers(result).items()


def test_one_more_seed_leaves_the_first_alone(storeless, finished):
    result, recorder = run(storeless, tiny(seeds=[0, 1], arms=["standard", "noise"]))
    assert {cell.seed for cell in recorder.made} == {1}
    assert {row.seed for row in result} == {0, 1}


def test_another_dataset_alone_does_not_lose_the_first(storeless, finished):
    two = tiny(
        datasets=TINY["datasets"] | {"small": {"source": "digits", "image_size": 8, "augment": "none"}},
        arms=["standard"], attacks={"fgsm": {}},
    )  # fmt: skip
    result, recorder = run(storeless, two, only="small")
    assert {cell.dataset for cell in recorder.made} == {"small"}
    assert {row.dataset for row in result} == {"digits", "small"}
    listed = {(cell["dataset"], cell["kind"]) for cell in result.manifest["cells"]}
    assert {("digits", "fit"), ("digits", "evaluate"), ("small", "fit")} <= listed
    _, recorder = run(storeless, two)
    assert not recorder.made, "the manifest still says what was measured of both"


def test_other_code_measures_anew(storeless, monkeypatch):
    before = code.code_of
    monkeypatch.setattr("inoculate.study.specs.code_of", lambda kind: before(kind) | {"core": "another"})
    _, recorder = run(storeless, TINY)
    assert not recorder.found
    assert recorder.made


def test_rows_without_their_records_are_measured_anew(storeless, finished):
    (storeless / "records.npz").unlink()
    again, recorder = run(storeless, TINY)
    assert {cell.kind for cell in recorder.made} == {"fit", "craft", "evaluate"}
    assert numbers(again) == numbers(finished)


def test_results_that_cannot_be_read_are_not_written_over(storeless):
    (storeless / "results.json").write_text("[{")
    with pytest.raises(InputError, match=r"results.json: not JSON.* another folder"):
        run(storeless, TINY)
    assert (storeless / "results.json").read_text() == "[{"


def test_explanations_are_kept_too(tmp_path):
    study = tiny(
        models=["small_cnn"], surrogate="small_cnn", arms=ARMS, attacks={"fgsm": {}},
        explanations={"images": 2, "stability": 8, "fragility": 8, "steps": 2, "search": 3, "arms": ARMS},
    )  # fmt: skip
    first, _ = run(tmp_path, study)
    shutil.rmtree(tmp_path / "store")
    again, recorder = run(tmp_path, study)
    assert not recorder.made
    assert [each.facts for each in again.explanations] == [each.facts for each in first.explanations]
    assert len(StudyRun.load(tmp_path).explanations) == 2


def test_the_manifest_says_which_versions_measured_what_was_kept(storeless, finished, monkeypatch):
    monkeypatch.setattr("inoculate.study.manifest.versions", lambda: {"torch": "9.9"})
    again, _ = run(storeless, TINY)
    assert again.manifest["earlier"] == [{key: finished.manifest[key] for key in ("versions", "machine")}]
    third, _ = run(storeless, TINY)
    assert third.manifest["earlier"] == again.manifest["earlier"]


def test_the_manifest_keeps_the_labels_of_the_records(storeless, finished):
    again, recorder = run(storeless, TINY)
    assert not recorder.made
    assert again.manifest["datasets"]["digits"]["labels"] == finished.manifest["datasets"]["digits"]["labels"] != {}
