"""Early termination: when runs are judged, and what is expected of the rest of their budget."""

from __future__ import annotations

import math

import pytest
import torch
from attack_samples import for_every, seeded
from torch import Tensor, nn

from inoculate.attacks.apgd import APGD
from inoculate.attacks.base import Attack
from inoculate.attacks.fab import FAB
from inoculate.attacks.square import Square
from inoculate.attacks.termination import outlook, stages
from inoculate.core.threat import Threat


def test_runs_are_judged_several_times_and_less_is_expected_each_time() -> None:
    assert stages(100, 1.0) == list(range(6, 91))
    assert stages(5000, 1.0) == list(range(300, 4501, 50))
    assert stages(100, math.inf) == stages(1, 1.0) == []
    assert stages(2, 1.0) == [1]
    expected = [outlook(float(done), 100) for done in stages(100, 1.0)]
    assert expected == sorted(expected, reverse=True)
    assert (outlook(20.0, 100), outlook(50.0, 100)) == (1.0, 0.25)
    assert outlook(torch.tensor([20.0, 100.0]), 100).tolist() == [1.0, 0.0]


class _Saturating(nn.Module):
    """Class 0 leads by `lead` at the start; what can be gained falls off quickly, so that 40 % of it stay missing."""

    def __init__(self, lead: float) -> None:
        super().__init__()
        self.lead, self.images = lead, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        gain = 1 - (-40 * (x - 0.5).flatten(1).mean(dim=1).abs()).exp()
        zero = 0 * gain
        return torch.stack([zero + self.lead, zero + gain, zero - 2, zero - 3], dim=1)


BUDGET = 100
ATTACKS = [
    (APGD(BUDGET, "dlr", targets=1, termination_ratio=1.0), APGD(BUDGET, "dlr", targets=1)),
    (FAB(BUDGET, 1, termination_ratio=1 / 3), FAB(BUDGET, 1)),
    (Square(BUDGET, termination_ratio=1.0), Square(BUDGET)),
]


@for_every(ATTACKS)
def test_an_image_just_out_of_reach_is_not_tried_to_the_end(judged: Attack, full: Attack) -> None:
    """At a fifth of the budget less is missing than was gained: only a later look ends the run."""
    x, y = torch.full((4, 1, 4, 4), 0.5) + 0.001 * torch.arange(1.0, 5.0).view(-1, 1, 1, 1), torch.zeros(4).long()
    passes = []
    for attack in (judged, full):
        model = _Saturating(lead=1.3)
        attack(model, x, y, Threat("linf", 0.2), generator=seeded(0))
        passes.append(model.images)
    assert passes[0] < 0.8 * passes[1]


@pytest.mark.parametrize(("judged", "full"), ATTACKS)
def test_what_falls_late_falls_all_the_same(judged: Attack, full: Attack) -> None:
    """A boundary that is nearly as far as the attack gets."""
    x, y = torch.full((4, 1, 4, 4), 0.5) + 0.001 * torch.arange(1.0, 5.0).view(-1, 1, 1, 1), torch.zeros(4).long()
    model, threat = _Saturating(lead=0.9), Threat("linf", 0.1)
    found = [model(each(model, x, y, threat, generator=seeded(0))).argmax(1) for each in (judged, full)]
    assert (found[1] == 1).all()
    assert torch.equal(*found)
