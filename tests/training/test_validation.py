"""Validation accuracy, clean and under attack, against the evaluation of the public API."""

import pytest
import torch
from masked_models import masked, parts
from torch import nn
from training_samples import digit_network, digit_parts

from inoculate.attacks.pgd import PGD
from inoculate.attacks.short_ensemble import ShortEnsemble
from inoculate.core.pixels import to_float
from inoculate.core.rng import generator
from inoculate.core.threat import Threat
from inoculate.training.validation import clean_accuracy, majority_baseline, robust_accuracy, validate_round

THREAT = Threat("linf", 0.2)


class Waves(nn.Module):
    """Predictions that vary so quickly with the image that an attack may well move a wrong one to the right class."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.directions = nn.Linear(64, 10)

    def forward(self, x):
        return torch.sin(300 * self.directions(x.flatten(1)))


def test_clean_errors_are_errors_under_attack():
    model, data = Waves().eval(), digit_parts()[1]
    x, y = to_float(data.images[:]), data.labels
    clean = model(x).argmax(1) == y
    x_adv = ShortEnsemble()(model, x[clean], y[clean], THREAT, generator=generator(0, "attack"))
    survived = (model(x_adv).argmax(1) == y[clean]).sum().item()
    everywhere = PGD(steps=10)(model, x, y, THREAT, generator=generator(0, "attack"))
    assert ((model(everywhere).argmax(1) == y) & ~clean).any(), "some are right only under attack"
    assert robust_accuracy(model, data, THREAT, len(data)) == pytest.approx(survived / len(data))


def test_more_images_than_a_batch_are_attacked_in_batches():
    """Each batch of 256 draws from the same generator, and an image's start depends on its content alone."""
    model, data = digit_network(), digit_parts()[0].subset(range(300))
    model.train()
    parts = [robust_accuracy(model, data.subset(range(k, k + 100)), THREAT, 100) for k in (0, 100, 200)]
    assert robust_accuracy(model, data, THREAT, 300) == pytest.approx(sum(parts) / 3, abs=0.011)
    assert model.training, "the mode is restored"


def test_the_scale_of_the_logits_does_not_hide_errors():
    """Multiplied by 10,000 they leave PGD on cross-entropy without a gradient: it would find hardly an error."""
    model, data = masked("huge temperature"), parts()[1].limit(100, seed=0)
    honest = robust_accuracy(model.body, data, Threat("linf", 0.1), 100)
    assert honest < 0.5
    assert robust_accuracy(model, data, Threat("linf", 0.1), 100) == pytest.approx(honest, abs=0.03)


def test_gradients_that_vanish_do_not_hide_all_errors():
    model, data = masked("JPEG and bit depth"), parts()[1].limit(100, seed=0)
    assert robust_accuracy(model, data, Threat("linf", 0.1), 100) < clean_accuracy(model, data)[1] - 0.15


def test_a_round_is_described():
    model, data = digit_network().eval(), digit_parts()[1]
    found = validate_round(model, data, THREAT, 50)
    assert found["val_n"] == 50
    assert found["val_robust"] == robust_accuracy(model, data, THREAT, 50)
    assert (found["val_loss"], found["val_accuracy"]) == clean_accuracy(model, data)
    assert (
        found["val_majority"] == majority_baseline(data) == max(data.labels.tolist().count(k) for k in range(10)) / 200
    )
    assert "val_robust" not in validate_round(model, data, None, 50)
