"""APGD against the closed form of a linear model."""

from __future__ import annotations

import pytest
import torch
from attack_samples import images, linear_net, seeded, small_net
from torch import Tensor, nn

from inoculate.attacks.apgd import APGD, checkpoints
from inoculate.core.errors import InputError
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
    assert list(checkpoints(100).items())[:5] == [(22, 22), (41, 19), (57, 16), (70, 13), (80, 10)]
    assert list(checkpoints(100).values())[5:] == [7, 6, 6]
    assert checkpoints(1) == {1: 1}


def test_apgd_refuses_l1() -> None:
    with pytest.raises(InputError, match="linf and l2"):
        APGD()(small_net(), *images(), Threat("l1", 2.0))


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
