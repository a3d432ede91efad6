"""A `Defence` of the user's, and what is done about a training that fails."""

import pytest
import torch.nn.functional as F

from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.training.methods.adversarial import LossAndLogits
from inoculate.training.methods.registry import get_method


class CleanImages:
    """Trains on clean images, which it takes for adversarial ones: the monitors see that robustness does not grow."""

    passes = loss_passes = 1

    def examples(self, batch):
        return batch.x

    def loss(self, batch, x_adv):
        logits = batch.model(x_adv).float()
        return LossAndLogits(F.cross_entropy(logits, batch.y), logits)


LONG = {"threat": Threat("linf", 0.3), "limit": 400, "epochs": 9, "method": CleanImages()}


def test_a_failed_training_ends_and_says_so(quick_harden):
    found = quick_harden(**LONG)
    (warning,) = found.warnings
    assert "label leaking" in warning
    assert warning.endswith("training ended")
    assert f"**Warning**: {warning}." in found.card
    assert found.method == found.after[0].arm == "CleanImages"
    training = found.facts.training
    assert 50 <= training.updates < training.planned_updates == 90
    assert f"{training.updates} updates (of 90 planned)" in found.card


def test_a_fallback_continues_after_a_failure(quick_harden):
    found = quick_harden(**LONG, fallback="pgd_at")
    assert any("label leaking" in warning and "continued with pgd_at" in warning for warning in found.warnings)
    assert found.facts.training.fallback == "pgd_at"
    assert found.history[-1]["update"] == 90
    ended = next(entry for entry in found.history if entry["update"] >= 50)
    assert found.history[-1]["accuracy"] < ended["accuracy"], "adversarial examples are harder than clean ones"


def test_methods_may_be_objects(quick_harden):
    found = quick_harden(method=get_method("pgd_at", steps=1), epochs=1, limit=40)
    assert (found.method, found.facts.training.method["steps"]) == ("pgd_at", 1)
    for method, says in (("standard", "trains against no attack"), (3, "method is int"), (CleanImages, "instance")):
        with pytest.raises(InputError, match=says):
            quick_harden(method=method)


def test_a_defence_of_the_same_class_and_options_is_the_same_run(quick_harden, tmp_path):
    quick = {"epochs": 1, "limit": 40, "out": tmp_path}
    assert not quick_harden(method=CleanImages(), **quick).reused
    assert quick_harden(method=CleanImages(), **quick).reused
    other = CleanImages()
    other.temperature = 2
    assert not quick_harden(method=other, **quick).reused
