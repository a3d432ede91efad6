"""The Square attack: its squares written out, and a model without gradients."""

from __future__ import annotations

import pytest
import torch
from attack_samples import for_every, linear_net, seeded
from torch import Tensor, nn

from inoculate.attacks import square
from inoculate.attacks.pgd import PGD
from inoculate.attacks.square import Square
from inoculate.attacks.squares import Squares, bump, size_schedule
from inoculate.core.threat import Norm, Threat, distance, project


def test_an_l2_square_takes_its_channels_mass_from_the_other_square() -> None:
    """Algorithm 3 of Andriushchenko et al. 2020, written out: each channel keeps its own budget, sides are odd."""
    queries, eps = 2500, 3.0
    x = torch.full((2, 3, 28, 30), 0.5)
    squares = Squares(queries, 0.8, x, seeded(0))
    delta = torch.randn(x.shape, generator=seeded(1)) * torch.tensor([0.2, 1.0, 3.0])[:, None, None]
    delta *= eps * torch.tensor([0.7, 1.0])[:, None, None, None] / delta.flatten(1).norm(dim=1)[:, None, None, None]
    sides = set()
    for query in (0, 11, 51, 201, 501, 2001, 2499):
        side = max(round((0.8 * size_schedule(query) * 28 * 30) ** 0.5), 3)
        side = min(side if side % 2 else side + 1, 28)
        sides.add(side)
        down, across, other_down, other_across = (
            int(place * (size - side + 1))
            for place, size in zip(squares.places[query, [0, 1, 2, 3]].tolist(), (28, 30, 28, 30), strict=True)
        )
        expected = delta.clone()
        for image in range(2):
            unused = max(eps**2 - float((delta[image] ** 2).sum()), 0.0)
            for channel in range(3):
                d = delta[image, channel]
                covered = torch.zeros(28, 30)
                covered[down : down + side, across : across + side] = 1
                covered[other_down : other_down + side, other_across : other_across + side] = 1
                available = (float((d**2 * covered).sum()) + unused / 3) ** 0.5
                old = d[down : down + side, across : across + side]
                pattern = bump(side, bool(squares.transposed[query])) * squares.signs[query, channel]
                fresh = pattern + old / old.norm()
                expected[image, channel, other_down : other_down + side, other_across : other_across + side] = 0
                expected[image, channel, down : down + side, across : across + side] = fresh / fresh.norm() * available
        expected *= eps / expected.flatten(1).norm(dim=1)[:, None, None, None]
        threat = Threat("l2", eps, low=-9, high=9)
        found = squares.l2(x, x + delta, torch.tensor([query, query]), threat)
        assert torch.allclose(found, x + expected, atol=1e-5)
    assert sides == {27, 19, 13, 9, 7, 3}


class _Coarse(nn.Module):
    """Answers in whole numbers: no gradient anywhere, yet one bright corner decides."""

    def forward(self, x: Tensor) -> Tensor:
        bright = (x[:, :, :2, :2].mean((1, 2, 3)) * 20).round() / 20
        return torch.stack([0.55 - bright, bright - 0.55], dim=1) + 0 * x.sum((1, 2, 3))[:, None]


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model(x).argmax(1) == y).float().mean())


@for_every([("linf", 0.2), ("l2", 0.8), ("l1", 3.0)])
def test_square_breaks_what_has_no_gradient(norm: Norm, eps: float) -> None:
    x, y = torch.full((20, 1, 8, 8), 0.45) + 1e-3 * torch.rand(20, 1, 8, 8, generator=seeded(0)), torch.zeros(20).long()
    model, threat = _Coarse(), Threat(norm, eps)
    assert accuracy(model, x, y) == 1
    assert accuracy(model, PGD(steps=20, loss="margin")(model, x, y, Threat("linf", 0.02)), y) == 1
    x_adv = Square(queries=300)(model, x, y, threat, generator=seeded(0))
    assert accuracy(model, x_adv, y) < 0.2
    assert distance(x_adv, x, norm).max() <= eps + 1e-6


def test_an_l1_square_takes_more_than_the_other_leaves_and_is_projected() -> None:
    """Mind the Box: as in L2, with absolute values, each channel times their number; the projection cuts the rest."""
    x, eps, query = torch.full((2, 3, 12, 12), 0.5), 3.0, 11
    squares = Squares(20, 0.8, x, seeded(0))
    delta = project(x + torch.randn(x.shape, generator=seeded(1)), x, Threat("l1", eps)) - x
    delta[1] /= 2
    side = round((0.8 * size_schedule(query) * 144) ** 0.5)
    side += 1 - side % 2
    top, left, other_top, other_left = (int(place * (12 - side + 1)) for place in squares.places[query].tolist())
    covered = torch.zeros(12, 12)
    covered[top : top + side, left : left + side] = covered[
        other_top : other_top + side, other_left : other_left + side
    ] = 1
    expected = delta.clone()
    for image in range(2):
        unused = eps - float(delta[image].abs().sum())
        for channel in range(3):
            d = delta[image, channel]
            available = 3 * (float((d.abs() * covered).sum()) + max(unused, 0) / 3)
            old = d[top : top + side, left : left + side]
            fresh = bump(side, bool(squares.transposed[query]), 1) * squares.signs[query, channel]
            fresh = fresh + old / old.abs().sum()
            expected[image, channel, other_top : other_top + side, other_left : other_left + side] = 0
            expected[image, channel, top : top + side, left : left + side] = fresh / fresh.abs().sum() * available
    found = squares.l1(x, x + delta, torch.tensor([query, query]), Threat("l1", eps))
    assert torch.allclose(found, project(x + expected, x, Threat("l1", eps)), atol=1e-5)
    assert distance(found, x, "l1").max() <= eps + 1e-6


class _Distant(nn.Module):
    """The wrong class gains as the image brightens, and misses `gap` times as much as the brightest gives."""

    def __init__(self, gap: float) -> None:
        super().__init__()
        self.gap, self.seen = gap, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        bright = x.mean((1, 2, 3))
        return torch.stack([0.6 + self.gap + 0 * bright, bright], dim=1)


@for_every([(2.0, 300), (0.03, 2000), (0.003, 5000)])
def test_square_gives_up_by_how_far_it_is(gap: float, queries: int) -> None:
    """The gain is about 0.1: far images end after 6 % of the queries, nearer ones later, near ones never."""
    x, y = torch.full((2, 1, 8, 8), 0.5) + 1e-3 * torch.rand(2, 1, 8, 8, generator=seeded(0)), torch.zeros(2).long()
    model = _Distant(gap)
    Square(termination_ratio=1.0)(model, x, y, Threat("linf", 0.1), generator=seeded(0))
    assert 2 * queries <= model.seen <= 2 * queries * 1.3


def test_several_proposals_in_a_pass_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what is kept nor when an image is given up, which falls between the proposals of a pass."""
    weight = torch.randn(3, 36, generator=seeded(1))
    net = linear_net(weight.tolist()).double()
    x = (0.3 + 0.4 * torch.rand(24, 1, 6, 6, generator=seeded(2))).double()
    y, found = net(x).argmax(1), []
    for batch in (square.full_batch(x), 0):
        monkeypatch.setattr(square, "full_batch", lambda _, batch=batch: batch)
        attack = Square(400, termination_ratio=0.5)
        found.append(attack(net, x, y, Threat("linf", 0.05), generator=seeded(0)))
    assert torch.equal(*found)
    assert 0 < int((net(found[0]).argmax(1) == y).sum()) < 24


def test_a_schedule_for_its_own_queries_reaches_the_smallest_squares() -> None:
    x = torch.zeros(1, 1, 64, 64)
    sides = {rescale: Squares(200, 0.8, x, seeded(0), rescale).side.tolist() for rescale in (False, True)}
    assert sides[False][-1] == round((0.8 * 64 * 64 / 2**2) ** 0.5)  # as after 199 of 10,000 queries
    assert sides[True][-1] == round((0.8 * 64 * 64 / 2**9) ** 0.5)  # as after 9,950
    assert sides[True][0] == sides[False][0]
    assert sorted(sides[True], reverse=True) == sides[True]
