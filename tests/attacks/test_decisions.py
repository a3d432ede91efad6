"""Attacks that need labels only: how near they come, what they ask, and that they ask for nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from attack_samples import for_every, linear_net, seeded
from digits_samples import trained_digits
from torch import Tensor, nn

from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.hopskipjump import HopSkipJump
from inoculate.attacks.pgd import PGD
from inoculate.attacks.rays import RayS
from inoculate.attacks.square import Square
from inoculate.core.errors import InputError
from inoculate.core.threat import Norm, Threat, distance

QUICK: list[tuple[Any, Norm]] = [
    (HopSkipJump(queries=300, samples=20), "linf"),
    (HopSkipJump(queries=300, samples=20), "l2"),
    (RayS(queries=300), "linf"),
]


class Labels(nn.Module):
    """The labels that a network gives, as whole numbers; it counts the images that it was asked about."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.asked = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return self.inner(x).argmax(dim=1)


def digits(count: int) -> tuple[nn.Module, Tensor, Tensor]:
    model, data = trained_digits()
    x = data.images.float() / 255
    right = (model(x).argmax(dim=1) == data.labels).nonzero().squeeze(1)[:count]
    return model, x[right], data.labels[right]


# --- closed forms


@for_every([(HopSkipJump(queries=3000), "l2", 1.06), (HopSkipJump(), "linf", 1.15)])
def test_a_linear_boundary_is_reached(attack: Any, norm: Norm, slack: float) -> None:
    """|margin| over the dual norm of the difference of weights; the range is far away."""
    weight = torch.randn(1, 48, generator=seeded(3))
    net = linear_net(torch.cat([weight, -weight]).tolist())
    x = 0.05 * torch.randn(8, 3, 4, 4, generator=seeded(4))
    y = net(x).argmax(dim=1)
    best = (x.flatten(1) @ weight[0]).abs() / weight.norm(p={"linf": 1, "l2": 2}[norm])
    threat = Threat(norm, 0.5, low=-1.0, high=1.0)
    ratio = distance(attack.closest(net, x, y, threat, generator=seeded(0)), x, norm) / best
    assert ratio.min() >= 1 - 1e-4
    assert ratio.median() <= slack


def test_rays_finds_the_signs_of_a_linear_boundary() -> None:
    """With eight values all blocks are tried: the corner of the ball is exact, its radius to a thousandth."""
    net = linear_net([[1.0, -2, 3, -1, 2, -3, 1, -2], [0.0] * 8])
    x = 0.5 + torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1]).view(1, 2, 2, 2) * 0.1
    net[1].bias = nn.Parameter(torch.tensor([-(net[1].weight[0] * 0.5).sum().item(), 0.0]))
    y = torch.zeros(1, dtype=torch.long)
    assert net(x).argmax().item() == 0  # by 1.5 at a slope of 15
    found = RayS(queries=300).closest(net, x, y, Threat("linf", 0.5))
    assert 0.1 <= distance(found, x, "linf").item() <= 0.1011


# --- what is asked


@for_every(QUICK)
def test_labels_are_enough_and_never_more_of_them_than_the_budget(attack: Any, norm: Norm) -> None:
    model, x, y = digits(2)
    for image, label in zip(x.split(1), y.split(1), strict=True):
        asked = Labels(model)
        found = attack.closest(asked, image, label, Threat(norm, 0.1), generator=seeded(0))
        assert 100 < asked.asked <= attack.queries
        assert torch.equal(found, attack.closest(model, image, label, Threat(norm, 0.1), generator=seeded(0)))
        assert model(found).argmax() != label


@for_every([(attack, norm) for attack, norm in QUICK], [1, 2, 13, 20])
def test_the_smallest_budgets_hold_too(attack: Any, norm: Norm, queries: int) -> None:
    model, x, y = digits(4)
    asked = Labels(model)
    found = type(attack)(queries=queries).closest(asked, x, y, Threat(norm, 0.1), generator=seeded(0))
    assert asked.asked <= 4 * queries
    moved = distance(found, x, norm) > 0
    assert bool((model(found).argmax(dim=1) != y)[moved].all())


@for_every(QUICK[1:2])
def test_a_function_that_returns_numpy_or_a_list(attack: Any, norm: Norm) -> None:
    model, x, y = digits(2)
    expected = attack.closest(model, x, y, Threat(norm, 0.1), generator=seeded(0))
    for give in (lambda z: z.numpy(), lambda z: z.tolist(), lambda z: z.int(), lambda z: z[:, None]):
        found = attack.closest(
            lambda x, give=give: give(model(x).argmax(1)), x, y, Threat(norm, 0.1), generator=seeded(0)
        )
        assert torch.equal(found, expected)


@for_every([FGSM(), PGD(steps=2), Square(queries=5)])
def test_an_attack_that_needs_more_names_those_that_do_not(attack: Any) -> None:
    model, x, y = digits(2)
    with pytest.raises(InputError, match="labels only: attack it with hopskipjump or rays"):
        attack(Labels(model), x, y, Threat())


@for_every([(HopSkipJump(), "l1"), (RayS(), "l2"), (RayS(), "l1")])
def test_another_norm_is_refused_with_the_attack_for_it(attack: Any, norm: Norm) -> None:
    model, x, y = digits(2)
    instead = {"linf": "use rays", "l2": "use hopskipjump", "l1": "no attack"}[norm]
    with pytest.raises(InputError, match=instead):
        attack(model, x, y, Threat(norm, 0.1))


# --- peers


def median(model: nn.Module, x: Tensor, y: Tensor, norm: Norm, x_adv: Tensor) -> float:
    broken = model(x_adv).argmax(dim=1) != y
    return float(distance(x_adv, x, norm).where(broken, torch.inf).median())


@for_every([(HopSkipJump, "l2"), (HopSkipJump, "linf"), (RayS, "linf")])
def test_no_further_than_foolbox_with_as_many_queries(ours: Any, norm: Norm) -> None:
    peer = pytest.importorskip("foolbox")
    model, x, y = digits(50)
    asked = Labels(model)
    counting = nn.Sequential(nn.Identity(), model).eval()
    counting[0].register_forward_hook(lambda _, inputs, __: setattr(asked, "asked", asked.asked + len(inputs[0])))
    attack = peer.attacks.HopSkipJumpAttack(steps=3, constraint=norm)
    found = attack.run(peer.PyTorchModel(counting, bounds=(0, 1)), x, peer.criteria.Misclassification(y))
    queries = math.floor(asked.asked / len(x))
    mine = ours(queries=queries).closest(model, x, y, Threat(norm, 0.1), generator=seeded(0))
    assert median(model, x, y, norm, mine) <= median(model, x, y, norm, found) < torch.inf
