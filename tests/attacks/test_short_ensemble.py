"""The quick estimate that chooses weights: exact on a linear network, and not fooled by the scale of the logits."""

from __future__ import annotations

import pytest
import torch
from attack_samples import images, linear_net, seeded, small_net
from torch import Tensor, nn

from inoculate.attacks.base import OneStep
from inoculate.attacks.gradients import value_and_input_grad
from inoculate.attacks.losses import LOSSES, Objective, rescaled_cross_entropy
from inoculate.attacks.pgd import PGD
from inoculate.attacks.short_ensemble import ShortEnsemble
from inoculate.attacks.square import Square
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat


class Scaled(nn.Module):
    """Another network's logits times a factor."""

    def __init__(self, inner: nn.Module, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x) * self.factor
        return logits


def test_rescaled_cross_entropy_literally() -> None:
    """The largest two logits are one apart after the division; a tie counts as a thousandth of the spread."""
    logits, y = torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0], [2.0, 2.0, 1.0]]), torch.tensor([0, 2, 1])
    weights = torch.tensor([0.0, -1.0, -1.5]).exp()
    expected = torch.stack(
        [-(weights[0] / weights.sum()).log(), -(weights[2] / weights.sum()).log(), torch.tensor(2.0).log()]
    )
    torch.testing.assert_close(rescaled_cross_entropy(logits, y), expected)
    torch.testing.assert_close(rescaled_cross_entropy(1e6 * logits, y), expected)


def test_the_direction_of_its_gradient_does_not_depend_on_the_scale() -> None:
    net, (x, y) = small_net(), images()
    objective = Objective(LOSSES["rescaled_cross_entropy"], y)
    one, *others = (
        value_and_input_grad(Scaled(net, factor), x, objective).gradient.sign() for factor in (1.0, 2.0**13, 2.0**-13)
    )
    for other in others:
        assert float((one == other).float().mean()) > 0.999
    saturated = Objective(LOSSES["cross_entropy"], net(x).argmax(1))
    assert not value_and_input_grad(Scaled(net, 1e7), x, saturated).gradient.any(), "the plain loss has none"


@pytest.mark.parametrize("factor", [1e-5, 1.0, 1e5])
def test_a_linear_network_is_broken_exactly_within_reach(factor: float) -> None:
    """L∞: the logits (−m, m), m = w·x − b, change sign where |m| < eps ‖w‖₁."""
    rows = [[-1.0, 0.5, -2.0, 1.5], [1.0, -0.5, 2.0, -1.5]]
    net = Scaled(linear_net(rows, [0.3, -0.3]), factor)
    x = 0.3 + 0.4 * torch.rand(64, 1, 2, 2, generator=seeded(0))
    m = net.inner(x)[:, 1]
    y, reach = (m > 0).long(), m.abs() / 5.0
    threat = Threat("linf", float(reach.detach().median()))
    broken = net(ShortEnsemble()(net, x, y, threat, generator=seeded(1))).argmax(1) != y
    sure = (reach - threat.eps).abs() > 1e-4
    assert torch.equal(broken[sure], (reach < threat.eps)[sure])


def test_its_parts_and_their_cost() -> None:
    for norm in ("linf", "l2", "l1"):
        assert [type(part) for part in ShortEnsemble().parts(Threat(norm, 1.0))] == [PGD, PGD, Square]
    assert [type(part) for part in ShortEnsemble().parts(Threat("l0", 1))] == [PGD, PGD]
    assert ShortEnsemble().passes <= 1.2 * PGD().steps
    assert not isinstance(ShortEnsemble(), OneStep)
    with pytest.raises(InputError, match="steps 0"):
        ShortEnsemble(steps=0)
