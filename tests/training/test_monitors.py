"""Failures of adversarial training as a history shows them, and which round is the best."""

from dataclasses import replace

import pytest
import torch
from training_samples import RECIPE, blocks, fit_blocks

from inoculate.core.threat import Threat
from inoculate.training.checkpoint import CHECKPOINT
from inoculate.training.methods.base import standard
from inoculate.training.monitors import best_round, detect_failure, detect_failures, failure_warnings
from inoculate.training.validation import clean_accuracy

THREAT = Threat("linf", 0.005)


def entry(accuracy, robust, clean=0.9, **more):
    return {"update": 100.0, "accuracy": accuracy, "val_accuracy": clean, "val_robust": robust, "val_n": 100, **more}


CASES = [
    ("a collapse", [entry(0.5, 0.45), entry(0.9, 0.01)], "catastrophic overfitting"),
    ("worse at everything", [entry(0.5, 0.45), entry(0.3, 0.2)], None),
    ("a small drop", [entry(0.5, 0.45), entry(0.6, 0.4)], None),
    ("chance: six images, then two", [entry(0.5, 0.3), entry(0.6, 0.1, val_n=20)], None),
    ("a leak", [entry(0.3, 0.02), entry(0.95, 0.01, update=200)], "label leaking"),
    ("eps is still small", [entry(0.95, 0.01, strength=0.3)], None),
    ("a leak, not memorised", [entry(0.95, 0.01, train_robust=0.02)], "label leaking"),
    ("memorised images", [entry(0.95, 0.2, train_robust=0.9)], None),
    ("averaged weights lag behind at first", [entry(0.95, 0.01, update=20)], None),
    ("a leak over rounds", [entry(0.95, 0.01, update=20 * i) for i in (1, 2, 3)], "label leaking"),
    ("full eps for 40 updates", [entry(0.95, 0.01, strength=0.9), entry(0.95, 0.01, update=140)], None),
    ("a constant prediction", [entry(0.3, 0.25, clean=0.25, val_majority=0.25), entry(0.35, 0.0)], None),
    (
        "above the baseline",
        [entry(0.5, 0.25, clean=0.5, val_majority=0.25), entry(0.6, 0.0)],
        "catastrophic overfitting",
    ),
    ("it once was robust", [entry(0.5, 0.28), entry(0.95, 0.2)], None),
    ("ordinary overfitting", [entry(0.9, 0.45)], None),
    ("not adversarial", [{"update": 1.0, "accuracy": 0.9, "val_accuracy": 0.1}], None),
    ("no round", [], None),
]


@pytest.mark.smoke
def test_failures_are_detected():
    for name, history, says in CASES:
        message = detect_failure(history)
        assert message is None if says is None else says in message, name


def test_warnings_say_whether_the_training_continued():
    history = [entry(0.5, 0.45), entry(0.9, 0.01), entry(0.5, 0.4)]
    assert [number for number, _ in detect_failures(history)] == [2]
    assert failure_warnings(history, "pgd_at")[0].endswith("training continued with pgd_at")
    assert failure_warnings(history[:2], "pgd_at")[0].endswith("training ended")
    assert failure_warnings(history[:2], None)[0].endswith("training ended")


def test_a_constant_prediction_is_never_the_best_round():
    """It is robust wherever it is right; any network above the majority-class baseline precedes it."""
    constant = {"val_accuracy": 0.11, "val_majority": 0.11, "val_robust": 0.11, "val_loss": 2.3}
    weak, strong = ({**constant, "val_accuracy": 0.9, "val_robust": robust} for robust in (0.05, 0.3))
    assert best_round([constant, weak, constant]) == 1
    assert best_round([weak, constant, strong]) == 2
    assert best_round([constant, {**constant, "val_robust": 0.0}]) == 0


class Ruined:
    """Trains in the first round; permutes the classes in the second, in which it reports perfect accuracy."""

    def __init__(self):
        self.permuted, self.last_layers = False, []

    def __call__(self, model, optimizer, x, y, *, generator, progress=1.0, samples=None):
        if progress < 1 / 3:
            return standard(model, optimizer, x, y, generator=generator)
        if not self.permuted:
            self.permuted = True
            with torch.no_grad():
                model[5].weight.copy_(model[5].weight.roll(1, 0))
                model[5].bias.copy_(model[5].bias.roll(1, 0))
        elif progress >= 2 / 3:
            self.last_layers.append(model[5].weight.detach().clone())
        return {"loss": 1.0, "accuracy": 1.0}


def test_a_failure_ends_the_training_with_the_best_weights(tmp_path):
    model, history = fit_blocks(tmp_path, Ruined(), threat=THREAT)
    assert clean_accuracy(model, blocks())[1] == pytest.approx(history[0]["val_accuracy"])
    assert len(history) == 2
    assert history[0]["val_robust"] > history[1]["val_robust"] + 0.2
    assert "catastrophic overfitting" in detect_failures(history)[0][1]


def test_a_fallback_starts_from_the_best_weights_and_a_new_average(tmp_path):
    """The average of what follows does not include the weights of the failure."""
    for folder, monitored in ((tmp_path / "yes", True), (tmp_path / "no", False)):
        method = Ruined()
        recipe = replace(RECIPE, average=0.9, stop_on_failure=monitored)
        _, history = fit_blocks(folder, method, recipe, threat=THREAT, fallback=method)
        assert len(history) == 3
        average = torch.load(folder / CHECKPOINT, weights_only=True)["ema"]["module.5.weight"]
        assert (history[2]["val_robust"] > history[1]["val_robust"] + 0.2) == monitored
        assert torch.allclose(average, method.last_layers[0], atol=1e-6) == monitored
