"""The job `harden` on a few small digits: rows, resuming, selection of weights, every form of model and data."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.data.load import load_data
from inoculate.hardening.data import HardeningData
from inoculate.hardening.result import Hardened
from inoculate.hardening.selection import keep_better_weights
from inoculate.models.build import build_model

PGD_2 = {"method": "pgd_at", "method_options": {"steps": 2, "average": 0.9}}


def same_weights(one, other):
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


class StopAt:
    """Interrupts a job at the end of a stage, as Ctrl-C would."""

    def __init__(self, stage, done=None):
        self.stage, self.done, self.seen = stage, done, []

    def __call__(self, what, done, total):
        self.seen.append(what)
        if what == self.stage and done == (total if self.done is None else self.done):
            raise KeyboardInterrupt


@pytest.mark.smoke
def test_the_same_attacks_are_measured_before_and_after(hardened):
    attacks = ["none", "fgsm", "pgd", "autoattack"]
    assert [(row.model, row.arm, row.attack) for row in hardened.before] == [("before", "standard", a) for a in attacks]
    assert [(row.model, row.arm, row.attack) for row in hardened.after] == [("small_cnn", "pgd_at", a) for a in attacks]
    assert {row.n for row in hardened} == {16}
    assert {row.eps for row in hardened if row.attack != "none"} == {0.1}
    assert (hardened.method, hardened.facts.training.method["steps"]) == ("pgd_at", 2)
    assert not hardened.model.training


def test_the_folder_holds_the_result_and_nothing_unfinished(hardened):
    description = json.loads((hardened.folder / "model.json").read_text())
    assert (description["method"]["steps"], description["threat"]["eps"]) == (2, 0.1)
    assert json.loads((hardened.folder / "history.json").read_text()) == hardened.history
    assert (hardened.folder / "README.md").read_text() == hardened.card
    assert not list(hardened.folder.glob(".unfinished*"))


def test_without_a_folder_the_result_is_the_same(hardened, quick_harden):
    again = quick_harden(**PGD_2)
    assert (again.folder, again.onnx) == (None, None)
    assert same_weights(again, hardened)
    assert [row.correct for row in again] == [row.correct for row in hardened]


@pytest.mark.parametrize(("stage", "done"), [("before: standard training", 3), ("pgd_at on digits", 5)])
def test_an_interrupted_training_resumes_with_the_same_result(hardened, quick_harden, tmp_path, stage, done):
    stop = StopAt(stage, done)
    with pytest.raises(KeyboardInterrupt):
        quick_harden(out=tmp_path, progress=stop, **PGD_2)
    assert list(tmp_path.glob(".unfinished*"))
    assert not (tmp_path / "model.json").exists()
    assert same_weights(quick_harden(out=tmp_path, **PGD_2), hardened)


def test_a_run_stopped_at_its_very_end_trains_nothing_again(hardened, quick_harden, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        quick_harden(out=tmp_path, progress=StopAt("after: autoattack"), **PGD_2)
    resumed = StopAt("")
    found = quick_harden(out=tmp_path, progress=resumed, **PGD_2)
    assert not found.reused
    assert same_weights(found, hardened)
    assert not {what for what in resumed.seen if what.startswith("before") or what == "pgd_at on digits"}


def test_the_same_call_again_reads_the_result(hardened, quick_harden):
    before = {file.name: file.read_bytes() for file in hardened.folder.iterdir()}
    again = quick_harden(out=hardened.folder, onnx=hardened.onnx is not None, **PGD_2)
    assert again.reused
    assert [*again] == [*hardened]
    assert {file.name: file.read_bytes() for file in hardened.folder.iterdir()} == before


def test_another_call_replaces_the_result(quick_harden, tmp_path):
    one = {"epochs": 1, "limit": 40}
    quick_harden(out=tmp_path, **one)
    (tmp_path / "model.onnx").write_bytes(b"of other weights")
    found = quick_harden(out=tmp_path, seed=1, **one)
    assert not found.reused
    assert not (tmp_path / "model.onnx").exists()
    assert quick_harden(out=tmp_path, seed=1, **one).reused


def test_files_of_others_are_not_overwritten(quick_harden, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"README\.md"):
        quick_harden(out=tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    with pytest.raises(InputError, match="a folder is a class"):
        quick_harden(data=tmp_path, out=tmp_path / "out")


def test_a_training_that_only_harms_keeps_the_original_weights(hardened, quick_harden, tmp_path):
    found = quick_harden(str(hardened.folder), lr=3.0, out=tmp_path, **PGD_2)
    assert same_weights(found, hardened)
    assert [row.accuracy for row in found.before] == [row.accuracy for row in found.after]
    assert found.after[0].arm == "standard"
    (warning,) = found.warnings
    assert "the original weights were kept" in warning
    assert warning in found.card
    assert "peak learning rate of 3," in found.card
    assert "method" not in json.loads((tmp_path / "model.json").read_text())


def test_a_trained_network_learns_on_at_a_tenth_of_the_rate(hardened, quick_harden):
    found = quick_harden(str(hardened.folder), **PGD_2)
    assert not found.warnings
    assert found.facts.training.lr == pytest.approx(0.0005)
    assert found.facts.baseline_epochs == 0
    assert not same_weights(found, hardened)


def test_a_budget_chooses_a_method_and_says_why(quick_harden):
    found = quick_harden(method=None, epochs=None, budget=0.5)
    assert "ms on this machine, so" in found.facts.training.reason
    # How robust half a second makes it depends on the machine, and with it the verdict of the checks.
    assert not [warning for warning in found.warnings if not warning.startswith("no trustworthy")]


def test_fewer_images_than_a_batch_are_one_batch(quick_harden):
    training = quick_harden(limit=24, epochs=3).facts.training
    assert training.reason == "3 epochs, 3 updates"
    assert (training.batch_size, training.images) == (24, 24)


def test_l1_has_the_same_attacks(quick_harden):
    found = quick_harden(threat=Threat("l1", 2.0), epochs=1, **PGD_2)
    assert [row.attack for row in found] == ["none", "fgsm", "pgd", "autoattack"] * 2
    assert "AutoAttack" in found.card


def test_a_module_is_hardened_and_stays_as_it_was(quick_harden, digits, tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(144, 10))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    data = replace(digits.limit(400, seed=0), name="mine")
    found = quick_harden(module, data, out=tmp_path, normalize="0.5/0.25")
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert (found.after[0].model, found.after[0].dataset) == ("Sequential", "mine")
    assert quick_harden(module, data, out=tmp_path, normalize="0.5/0.25").reused
    images = torch.rand(3, 1, 12, 12)
    names = {"network": module, "images": images}
    exec(found.card.split("```python\n")[1].split("```")[0], names)
    assert torch.equal(names["logits"], found.model(images))
    with pytest.raises(InputError, match="your own module Sequential"):
        Hardened.load(tmp_path)


def test_a_dataset_is_divided_by_the_seed(quick_harden, digits):
    data = digits.limit(400, seed=0)
    found = [quick_harden(data=data, limit=None, test_images=500, epochs=1, seed=seed) for seed in (0, 1)]
    assert [result.facts.training.images for result in found] == [280, 280]
    assert {row.n for result in found for row in result} == {80}
    assert found[0].facts.digest != found[1].facts.digest


def test_images_and_labels_are_data(quick_harden, digits):
    data = digits.limit(300, seed=0)
    found = quick_harden(data=(data.images, data.labels), epochs=1)
    assert found.after[0].n == 16
    assert "inoculate evaluate" not in found.card


def test_networks_are_asked_for_where_a_method_needs_them(hardened, quick_harden):
    taught = quick_harden(method="ard", method_options={"steps": 1}, teacher=hardened.folder, epochs=1)
    assert taught.method == "ard"
    beside = quick_harden(method="live_surrogate", method_options={"steps": 1}, surrogates=("small_cnn",), epochs=1)
    assert beside.method == "live_surrogate"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "trade"}, "did you mean 'trades'"),
        ({"method": "trades", "method_options": {"bta": 2}}, "did you mean 'beta'"),
        ({"method": None, "method_options": {"steps": 2}}, "name one"),
        ({"method": "fgsm_rs", "method_options": {"random_start": 3}}, "give true or false"),
        ({"method": "rslad"}, "teacher"),
        ({"method": None, "teacher": "mine"}, "takes no teacher"),
        ({"teacher": "mine"}, "fgsm_rs takes no teacher"),
        ({"method": "ard", "surrogates": ("mine",)}, "ard takes no surrogate"),
        ({"method": "ard", "teacher": "nowhere"}, "nowhere does not exist"),
        ({"method": "live_surrogate", "surrogates": ("a", "b")}, "one surrogate"),
        ({"method": "ensemble", "fallback": "pgd_at"}, "not monitored"),
        ({"fallback": "ard"}, "needs another network"),
        ({"fallback": "pgdat"}, "did you mean 'pgd_at'"),
        ({"threat": Threat("linf", 0.0)}, "no attack"),
        ({"budget": "1h30"}, "90s, 5m or 1h30m"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(quick_harden, tmp_path, options, says):
    with pytest.raises(InputError, match=says):
        quick_harden(out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_original_weights_that_prove_more_are_kept(tmp_path):
    part = load_data("digits").limit(20, seed=0)
    data = HardeningData(part, part, part, Threat("linf", 0.1), 0)
    model = build_model("small_cnn", classes=10, channels=1, image_size=part.image_size)
    original = {name: value.clone() for name, value in model.state_dict().items()}
    history = [{"round": 1, "val_loss": 9.0, "val_accuracy": 0.0, "val_certified": -1.0, "val_n": 20}]
    with torch.no_grad():
        next(model.parameters()).zero_()
    said = keep_better_weights(model, original, tmp_path / "none", data, history)
    assert "no round of the training was as good by proof on validation images (-100.0%, clean 0.0%)" in said
    assert all(torch.equal(value, original[name]) for name, value in model.state_dict().items())
