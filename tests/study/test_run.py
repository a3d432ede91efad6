"""A whole study on real digits with two very small networks: results, artefacts, resuming."""

import json

import pytest
import torch
from safetensors.torch import load_file
from study_samples import TINY, Recorder, numbers, run, tiny

from inoculate.artifacts.rows import read_rows
from inoculate.attacks.craft import AdvSet
from inoculate.core.errors import InputError
from inoculate.models.loading.load import load_model
from inoculate.study.cell import Cell
from inoculate.study.estimate import Estimate
from inoculate.study.load import load_study
from inoculate.study.run import run_study


def test_everything_planned_is_measured(finished, recorder):
    assert not recorder.found
    evaluations = [cell for cell in recorder.made if cell.kind == "evaluate"]
    assert len(finished) == sum(1 if cell.attack == "none" else 2 for cell in evaluations)
    assert {"white-box", f"transfer:{finished.surrogates['digits']}/standard"} <= {row.protocol for row in finished}
    assert all(row.n == 24 for row in finished if row.attack in ("none", "fgsm"))
    assert all(row.n == 15 for row in finished if row.attack == "pgd")


def test_adversarial_accuracy_never_exceeds_clean(finished):
    clean = {(row.model, row.arm): right for row, right in finished.per_image.items() if row.attack == "none"}
    for row, right in finished.per_image.items():
        assert not (right & ~clean[row.model, row.arm][: row.n]).any(), row


def test_run_again_computes_nothing(folder, finished):
    again, recorder = run(folder, TINY)
    assert not recorder.made
    assert again.made == 0
    assert numbers(again) == numbers(finished)
    assert again.manifest["machine"]["device"] is None
    assert finished.manifest["machine"]["device"] == "cpu"


def test_another_eps_repeats_crafting_and_what_follows_only(folder):
    _, recorder = run(folder, tiny(eps=[0.02, 0.05]))
    made = {(cell.kind, cell.arm) for cell in recorder.made}
    assert {("fit", "transferred"), ("evaluate", "standard")} <= made
    assert not {("fit", "standard"), ("fit", "augmented")} & made


def test_another_network_runs_its_own_cells_only(folder, finished):
    models = [*TINY["models"], "test_byobnet"]
    _, recorder = run(folder, tiny(models=models, surrogate=finished.surrogates["digits"], arms=["standard", "noise"]))
    assert {cell.model for cell in recorder.made} == {"test_byobnet"}


def test_another_seed_gives_other_splits_and_numbers(folder, finished):
    other, recorder = run(folder, tiny(seeds=[1], arms=["standard"]))
    assert not recorder.found
    assert {row.seed for row in other} == {1}
    first = [row for row in finished if row.arm == "standard"]
    assert sorted(numbers(other).values()) != sorted(numbers(first).values())


def test_an_attack_is_made_where_it_says_and_a_dataset_trained_as_it_says(folder, finished):
    pgd = TINY["attacks"]["pgd"] | {
        "eps": ["8/255"],
        "models": ["test_resnet"],
        "arms": ["noise"],
        "datasets": ["digits"],
    }
    narrow = tiny(attacks={"fgsm": {}, "pgd": pgd})
    result, recorder = run(folder, narrow)
    (row,) = (row for row in result if row.attack == "pgd")
    assert (row.model, row.arm, row.eps) == ("test_resnet", "noise", 8 / 255)
    assert {cell.kind for cell in recorder.made} == {"evaluate"}, "no network is trained again for it"
    assert numbers([row]).items() <= numbers(finished).items(), "its result at one eps does not depend on the others"


def test_a_dataset_is_trained_by_its_own_keys(tmp_path):
    own = {"digits": {"image_size": 12, "training": {"max_updates": 3, "val_images": 10, "rounds": 1}}}
    result, _ = run(tmp_path, tiny(datasets=own, models=["small_cnn"], surrogate="small_cnn", arms=["standard"]))
    (history,) = (cell["history"] for cell in result.manifest["cells"] if cell["kind"] == "fit")
    assert [entry["update"] for entry in history] == [3]
    assert (10 * history[0]["val_accuracy"]) % 1 == 0


def test_normalisation_and_clipping_are_as_the_study_says(tmp_path):
    study = tiny(
        models=["small_cnn"], surrogate="small_cnn", arms=["standard"], eps=[0.05], seeds=[0], explanations=False,
        datasets={"digits": {"image_size": 8, "normalize": "0.5/0.25"}},
        attacks={"fgsm": {}, "free": {"attack": "fgsm", "clip": False}},
    )  # fmt: skip
    found, _ = run(tmp_path / "out", study)
    network = load_model(next(tmp_path.glob("out/store/fit/*")))
    assert (network.normalize.mean.item(), network.normalize.std.item()) == (0.5, 0.25)
    accuracy = {row.attack: row.accuracy for row in found if row.protocol == "white-box"}
    assert accuracy["free"] < accuracy["fgsm"] < accuracy["none"]
    more, _ = run(tmp_path / "out", study | {"eps": [0.01, 0.05]})  # the range does not depend on the other eps
    assert [row.accuracy for row in more if (row.attack, row.eps) == ("free", 0.05)] == [accuracy["free"]]
    with pytest.raises(InputError, match="makes training images: leave its clip out"):
        load_study(study | {"attacks": {"fgsm": {"clip": False}}})
    with pytest.raises(InputError, match="normalisation 'mine' is not understood"):
        load_study(study | {"datasets": {"digits": {"normalize": "mine"}}})


def test_examples_of_several_steps_are_trained_on_and_belong_to_one_eps(tmp_path):
    study = tiny(
        eps=["8/255"], surrogate="test_resnet", transfer="mifgsm", arms=["standard", "transferred"],
        attacks={"fgsm": {}, "mifgsm": {"steps": 3, "step": 0.5}},
    )  # fmt: skip
    result, recorder = run(tmp_path, study)
    (crafted,) = [cell for cell in recorder.made if cell.kind == "craft" and cell.attack == "mifgsm"]
    assert crafted.part == "train"
    (described,) = [each for each in result.manifest["cells"] if each["cell"] == crafted.title and each["made"]]
    examples = AdvSet.load(tmp_path / "store" / described["artefact"])
    assert examples.provenance["eps"] == pytest.approx(8 / 255)
    assert 0.01 < (examples.direction.abs() < 127).float().mean() < 0.9, "neither FGSM's corners alone, nor nothing"
    readings = {(r.attack, r.protocol) for r in result if r.arm == "transferred" and r.model == "small_cnn"}
    assert readings == {
        ("none", "white-box"), ("fgsm", "white-box"), ("mifgsm", "white-box"),
        ("fgsm", "transfer:small_cnn/standard"), ("fgsm", "transfer:test_resnet/standard"),
    }  # fmt: skip
    _, recorder = run(tmp_path, study | {"eps": ["4/255"]})
    made = {(cell.kind, cell.arm, cell.attack) for cell in recorder.made}
    assert {("craft", "standard", "mifgsm"), ("fit", "transferred", "")} <= made, "other examples for another eps"
    assert not {("craft", "standard", "fgsm"), ("fit", "standard", "")} & made


def test_several_seeds_share_one_surrogate(tmp_path):
    study = tiny(seeds=[0, 1], arms=["standard", "transferred"], attacks={"fgsm": {}}, limit=80)
    result, _ = run(tmp_path, study)
    protocols = {row.protocol for row in result if row.arm == "standard"} - {"white-box"}
    assert protocols == {f"transfer:{result.surrogates['digits']}/standard"}


def test_a_damaged_artefact_is_made_again(folder, finished):
    victim = next((folder / "store" / "evaluate").glob("*/right.npy"))
    victim.write_bytes(victim.read_bytes()[:-1])
    again, recorder = run(folder, TINY)
    assert len(recorder.made) == 1
    assert numbers(again) == numbers(finished)


def test_an_interrupted_run_saves_what_this_and_earlier_runs_measured(folder, finished):
    class Interrupting(Recorder):
        def begin(self, cell, number, total, left):
            if number == 3:
                raise KeyboardInterrupt

    for name in ("results.json", "records.npz", "manifest.json"):
        (folder / name).unlink()
    with pytest.raises(KeyboardInterrupt):
        run_study(TINY, out=folder, progress=Interrupting())
    saved = read_rows(folder / "results.json")
    assert numbers(saved) == numbers(finished)
    assert len(saved) == len(finished)


def test_arguments_narrow_the_study(tmp_path):
    study = tiny(models=["small_cnn"], surrogate="small_cnn", arms=["standard"])
    result, _ = run(tmp_path, load_study(study, limit=60))
    assert result.manifest["study"]["limit"] == 60
    assert {row.n for row in result if row.attack == "none"} == {12}
    with pytest.raises(InputError, match="did you mean 'digits'"):
        run_study(TINY, out=tmp_path, only="digit")
    with pytest.raises(InputError, match="limit 0"):
        load_study(TINY, limit=0)


def test_mistakes_are_found_before_anything_is_computed(tmp_path):
    recorder = Recorder()
    two = {"digits": {"image_size": 12}, "pictures": {"source": str(tmp_path / "nowhere" / "pictures")}}
    with pytest.raises(InputError, match="nowhere"):
        run_study(tiny(datasets=two), out=tmp_path / "out", progress=recorder)
    with pytest.raises(InputError, match="did you mean 'test_resnet'"):
        run_study(tiny(models=["small_cnn", "test_resnt"]), out=tmp_path / "out", progress=recorder)
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="taken"):
        run_study(TINY, out=tmp_path / "taken", progress=recorder)
    assert not recorder.made
    assert not (tmp_path / "out" / "results.json").exists()


def test_time_left_is_at_least_what_is_known_until_every_kind_is_timed(recorder):
    estimates = recorder.estimates
    assert estimates[0][1] is None
    assert estimates[1][1].incomplete  # no attack has been timed yet
    assert not estimates[-1][1].incomplete
    assert estimates[-1][1].seconds > 0
    assert estimates[0][0] == Cell("fit", "digits", 0, "small_cnn")


def test_the_standard_arm_is_no_measure_for_the_others():
    cells = [Cell("fit", "digits", 0, "resnet18", arm) for arm in ("standard", "standard", "augmented", "noise")]
    estimate = Estimate(cells)
    assert estimate.left(0) is None
    estimate.add(cells[0], 10.0)
    assert estimate.left(1) == (10.0, True)
    estimate.add(cells[2], 30.0)
    assert estimate.left(3) == (30.0, False)


def test_every_step_reports_its_progress(recorder):
    assert {cell for cell, *_ in recorder.steps} == set(recorder.made)
    assert all(0 < done <= total for _, done, total, _ in recorder.steps)
    assert all("loss" in facts for cell, _, _, facts in recorder.steps if cell.kind == "fit" and facts)


def test_a_network_starts_from_the_given_weights(folder, finished, tmp_path):
    """With a learning rate of almost 0 the network keeps them, and so its accuracy on the same images."""
    (trained,) = [path.parent for path in (folder / "store").glob("fit/*/model.json") if _is(path, "small_cnn")]
    still = {"epochs": 1, "batch_size": 16, "lr": 1e-12, "weight_decay": 0}
    study = tiny(models=["small_cnn"], arms=["standard"], surrogate="small_cnn", training=still)
    given = run(tmp_path / "given", study | {"weights": {"small_cnn": trained / "weights.safetensors"}})[0]
    own = {name.removeprefix("network."): value for name, value in load_file(trained / "weights.safetensors").items()}
    torch.save(
        {"state_dict": {name: value for name, value in own.items() if "normalize." not in name}}, tmp_path / "own.pth"
    )
    plain = run(tmp_path / "plain", study | {"weights": {"small_cnn": tmp_path / "own.pth"}})[0]
    assert clean_of(plain) == clean_of(given)
    fresh = run(tmp_path / "fresh", study)[0]
    (before,) = [row for row in finished if (row.model, row.arm, row.attack) == ("small_cnn", "standard", "none")]
    assert clean_of(given) == before.accuracy != clean_of(fresh)


def _is(path, model):
    description = json.loads(path.read_text())
    return (description["model"]["name"], description["arm"]) == (model, "standard")


def clean_of(rows):
    (clean,) = [row.accuracy for row in rows if row.attack == "none"]
    return clean
