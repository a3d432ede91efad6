"""APGD against the closed form of a linear model."""

from __future__ import annotations

import pytest
import torch
from attack_samples import for_every, linear_net, seeded
from torch import Tensor, nn

from inoculate.attacks._apgd_steps import SparseStep, checkpoints, radius_schedule
from inoculate.attacks.apgd import APGD
from inoculate.core.threat import Threat


def test_apgd_reaches_the_best_point_of_a_linear_model() -> None:
    weight = torch.randn(48, generator=seeded(3))
    net = linear_net([[10.0] * 48, weight.tolist()])  # far from the boundary: nothing stops early
    x, y = torch.full((5, 3, 4, 4), 0.5), torch.zeros(5, dtype=torch.long)
    slope = weight - 10
    for norm, dual in (("linf", 1), ("l2", 2)):
        x_adv = APGD(steps=30, loss="margin")(net, x, y, Threat(norm, 0.1), generator=seeded(0))
        gain = (net(x_adv) - net(x)) @ torch.tensor([-1.0, 1.0])
        torch.testing.assert_close(gain, (0.1 * slope.norm(p=dual)).expand(5), rtol=1e-3, atol=0)


def test_step_sizes_are_checked_as_in_the_paper() -> None:
    """Section 3.1: the first period is 22 % of the steps; each is 3 % shorter, down to 6 %."""
    linf = Threat("linf", 0.1)
    assert list(checkpoints(100, linf).items())[:5] == [(22, 22), (41, 19), (57, 16), (70, 13), (80, 10)]
    assert list(checkpoints(100, linf).values())[5:] == [7, 6, 6]
    assert checkpoints(1, linf) == {1: 1}


def test_l1_runs_begin_in_wider_balls() -> None:
    """Mind the Box, section 4.2: 30, 30 and 40 % of the steps; a check every 4 %, which of so few is every step."""
    threat = Threat("l1", 2.0)
    assert [(ball.eps, steps) for ball, steps in radius_schedule(threat, 100)] == [(6.0, 30), (4.0, 30), (2.0, 40)]
    assert [steps for _, steps in radius_schedule(threat, 11)] == [4, 4, 3]
    assert radius_schedule(threat, 2) == [(threat, 2)]
    assert radius_schedule(Threat("l2", 2.0), 100) == [(Threat("l2", 2.0), 100)]
    assert checkpoints(30, threat) == dict.fromkeys(range(1, 31), 1)
    assert list(checkpoints(100, threat)) == list(range(4, 101, 4))


def test_an_l1_step_is_as_sparse_as_the_best_perturbation() -> None:
    delta = torch.zeros(2, 1, 3, 3)
    delta[0, 0, 0], delta[1, 0, 0, 0] = 1.0, 0.5
    rule, threat = SparseStep.begin(2.0, delta), Threat("l1", 2.0)
    gradient = torch.arange(-4.0, 5.0).view(1, 1, 3, 3).repeat(2, 1, 1, 1) + 0.1
    step = rule.along(gradient, threat).flatten(1)
    assert step[0].tolist() == [-1.0] + [0.0] * 7 + [1.0]  # two thirds of three
    assert step[1].tolist() == [0.0] * 8 + [2.0]
    assert rule.check(torch.zeros(2), delta, 0).tolist() == [False, False]
    assert rule.size.flatten().tolist() == pytest.approx([2 / 1.5] * 2)
    delta[0, 0, 0, 1:] = 0
    assert rule.check(torch.zeros(2), delta, 0).tolist() == [True, False]
    assert rule.size.flatten().tolist() == pytest.approx([2, 2 / 1.5**2])
    for _ in range(9):
        rule.check(torch.zeros(2), delta, 0)
    assert rule.size.flatten().tolist() == pytest.approx([0.2, 0.2])


@for_every([("margin", 1), ("cross_entropy", 1), ("margin", 3)])
def test_apgd_finds_the_best_point_of_a_linear_model_at_the_walls_of_the_range(loss: str, restarts: int) -> None:
    """L1: the pixels of steepest slope go to the wall, one after the other, and the last one as far as eps allows."""
    weight = torch.randn(48, generator=seeded(3))
    net = linear_net([(0.2 - 0.04 * weight).tolist(), (0.04 * weight).tolist()])  # cross-entropy does not saturate
    x, y = torch.rand(6, 3, 4, 4, generator=seeded(4)), torch.zeros(6, dtype=torch.long)
    slope = 0.08 * weight - 0.2
    for eps in (0.3, 2.0, 7.0):
        room = torch.where(slope > 0, 1 - x.flatten(1), x.flatten(1))
        order = slope.abs().argsort(descending=True)
        left = (eps - (room[:, order].cumsum(1) - room[:, order])).clamp_min(0)
        best = (slope.abs()[order] * room[:, order].minimum(left)).sum(1)
        x_adv = APGD(100, loss, restarts=restarts, early_stop=False)(net, x, y, Threat("l1", eps), generator=seeded(0))
        gain = (net(x_adv) - net(x)) @ torch.tensor([-1.0, 1.0])
        torch.testing.assert_close(gain, best, rtol=1e-5, atol=0)


class _Noisy(nn.Module):
    """One pixel; class 1 gains as it brightens, and noise of the logits is large against that."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = seeded(0)

    def forward(self, x: Tensor) -> Tensor:
        rise = 4 * (x.flatten(1).mean(dim=1) - 0.5)
        return torch.stack([0 * rise, rise + torch.randn(len(x), generator=self.noise), 0 * rise - 9], dim=1)


def test_a_run_on_a_randomised_model_goes_to_its_end() -> None:
    """A lucky pass at the start is no success: the highest mean loss is at the brightest allowed pixel."""
    x, y = torch.full((64, 1, 1, 1), 0.4) + 1e-3 * torch.arange(64.0).view(-1, 1, 1, 1), torch.zeros(64).long()
    for loss in ("cross_entropy", "dlr"):
        x_adv = APGD(20, loss, eot=20)(_Noisy(), x, y, Threat("linf", 0.1), generator=seeded(0))
        assert ((x_adv - x) > 0.05).float().mean() > 0.9
