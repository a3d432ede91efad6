"""Expectation over transformation: a gradient is the mean over passes of a random model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from attack_samples import for_every, images, linear_net, seeded, small_net
from torch import Tensor, nn

from inoculate.attacks.apgd import APGD
from inoculate.attacks.bim import BIM
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.gradients import value_and_input_grad
from inoculate.attacks.losses import Objective, get_loss
from inoculate.attacks.mifgsm import MIFGSM
from inoculate.attacks.one_step_target import OneStepTarget
from inoculate.attacks.pgd import PGD
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat

TAKES_EOT: dict[str, Any] = {
    "fgsm": FGSM(),
    "one_step_target": OneStepTarget(0),
    "bim": BIM(steps=2, step=0.5, early_stop=True),
    "pgd": PGD(steps=2, step=0.5, restarts=2, early_stop=True),
    "mifgsm": MIFGSM(steps=2, step=0.5),
    "apgd": APGD(steps=4),
}


class Cycle(nn.Module):
    """A model that is another at each pass, in turn: random, but known."""

    def __init__(self, *models: nn.Module) -> None:
        super().__init__()
        self.models, self.passes = nn.ModuleList(models), 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        logits: Tensor = self.models[(self.passes - 1) % len(self.models)](x)
        return logits


@for_every([1, 2, 3, 6], ["cross_entropy", "margin"])
def test_the_gradient_is_the_mean_over_passes(eot: int, loss: str) -> None:
    nets, (x, y) = [small_net(seed=seed) for seed in range(3)], images()
    objective = Objective(get_loss(loss), y)
    found = value_and_input_grad(Cycle(*nets), x, objective, eot=eot)
    each = [value_and_input_grad(nets[i % 3], x, objective) for i in range(eot)]
    for got, parts in zip(found, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(got, torch.stack(parts).mean(0))


@for_every(TAKES_EOT)
def test_every_attack_follows_the_mean(name: str) -> None:
    """Two models in turn: one pulls the first pixel up by 3, the other down by 1. Their mean pulls it up.

    Each alone would pull it where it pulls; a single pass, the second model's, down."""
    up, down = (linear_net([[0.0, 0.0], [slope, 0.1]], [0.0, -0.1]) for slope in (3.0, -1.0))
    x, y = torch.full((1, 1, 1, 2), 0.5), torch.zeros(1, dtype=torch.long)
    if name == "one_step_target":
        y = torch.ones(1, dtype=torch.long)  # away from 1, towards 0: the other way round
    attack = replace(TAKES_EOT[name], eot=2, loss="margin")
    x_adv = attack(Cycle(down, up), x, y, Threat("linf", 0.1), generator=seeded(1))
    moved = float(x_adv[0, 0, 0, 0] - 0.5) * (-1 if name == "one_step_target" else 1)
    assert moved == pytest.approx(0.1, abs=1e-6)


@for_every(TAKES_EOT, [0, 1.5, True])
def test_a_number_of_passes_that_is_none_is_refused(name: str, eot: Any) -> None:
    with pytest.raises(InputError, match="eot"):
        replace(TAKES_EOT[name], eot=eot)


def test_an_image_is_not_let_go_by_one_pass() -> None:
    """One pass in two is wrong about the clean image: with an early stop and several passes it is attacked in full."""
    right, wrong = (linear_net([[0.0, 0.0], [1.0, 1.0]], [0.0, shift]) for shift in (-1.2, 0.0))
    x, y = torch.full((1, 1, 1, 2), 0.5), torch.zeros(1, dtype=torch.long)
    for attack in (BIM(steps=4, early_stop=True, eot=2), PGD(steps=8, early_stop=True, eot=2)):
        x_adv = attack(Cycle(wrong, right), x, y, Threat("linf", 0.2), generator=seeded(1))
        torch.testing.assert_close(x_adv, torch.full_like(x, 0.7))
