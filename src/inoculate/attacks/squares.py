"""The proposals of the Square attack: where its squares lie and what they hold."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from inoculate.core.rng import Draws, drawn_seed
from inoculate.core.threat import Threat, distance, per_sample, project

SCHEDULE_QUERIES = 10_000


class Squares:
    """The squares of each query, shared by all images and decided by the generator: places, side and signs.

    `rescale`: their sizes fall as fast as `queries` allow, from the first to the last of the schedule.
    """

    def __init__(
        self, queries: int, p: float, x: Tensor, generator: torch.Generator | None, rescale: bool = False
    ) -> None:
        g = torch.Generator().manual_seed(drawn_seed(generator))
        self.channels, self.height, self.width = x.shape[1:]
        pace = SCHEDULE_QUERIES / queries if rescale else 1
        area = p * self.height * self.width
        areas = [area * size_schedule(round(query * pace)) for query in range(queries)]
        side = torch.tensor([max(round(math.sqrt(area)), 1) for area in areas])
        self.side = side.clamp_max(min(self.height, self.width)).to(x.device)
        # Corners of two squares, as fractions of the room that their side leaves.
        self.places = torch.rand(queries, 4, generator=g).to(x.device)
        self.signs = (torch.randint(2, (queries, self.channels), generator=g) * 2 - 1).to(x)
        self.transposed = torch.randint(2, (queries,), generator=g).tolist()

    def linf(self, x: Tensor, x_adv: Tensor, queries: Tensor, threat: Threat) -> Tensor:
        """Inside one square each channel is moved by ±2·eps and projected, to one end of the ball (algorithm 2).

        For images B×C×H×W and the numbers of several queries each (B×A): (B·A)×C×H×W, in their order.
        """
        side = self.side[queries]
        top, left = self._corner(queries, 0, side, self.height), self._corner(queries, 1, side, self.width)
        down, across = torch.arange(self.height, device=x.device), torch.arange(self.width, device=x.device)
        inside_down = (down >= top[..., None]) & (down < (top + side)[..., None])
        inside_across = (across >= left[..., None]) & (across < (left + side)[..., None])
        inside = inside_down[:, :, None, :, None] & inside_across[:, :, None, None, :]
        ends = (x[:, None] + threat.eps * self.signs[queries][..., None, None]).clamp_(threat.low, threat.high)
        return torch.where(inside, ends, x_adv[:, None]).flatten(0, 1)

    def l2(self, x: Tensor, x_adv: Tensor, queries: Tensor, threat: Threat) -> Tensor:
        """The perturbation of one square moves to another, with what the ball has left (algorithm 3)."""
        return project(x + _scaled(self._moved(x, x_adv, queries, threat, 2), threat.eps), x, threat)

    def l1(self, x: Tensor, x_adv: Tensor, queries: Tensor, threat: Threat) -> Tensor:
        """The same in L1, where the projection makes it sparse (Croce and Hein 2021, appendix)."""
        return project(x + self._moved(x, x_adv, queries, threat, 1), x, threat)

    def _moved(self, x: Tensor, x_adv: Tensor, queries: Tensor, threat: Threat, order: int) -> Tensor:
        """The perturbation after its move, in L2 or L1 (`order` 2 or 1)."""
        query = queries.flatten()[:1]
        side = max(int(self.side[query]), 3)
        side = min(side + 1 - side % 2, self.height, self.width)  # odd, as its middle is a pixel
        sides = torch.tensor([side], device=x.device)
        top, other_top = (int(self._corner(query, i, sides, self.height)) for i in (0, 2))
        left, other_left = (int(self._corner(query, i, sides, self.width)) for i in (1, 3))
        here = (..., slice(top, top + side), slice(left, left + side))
        there = (..., slice(other_top, other_top + side), slice(other_left, other_left + side))
        delta = x_adv - x
        mask = torch.zeros_like(x[:1])
        mask[here] = mask[there] = 1
        unused = (threat.eps**order - _sum_of_powers(delta, order)).clamp_min(0) / self.channels
        budget = unused + (delta * mask).abs().pow(order).sum(dim=(2, 3), keepdim=True)  # of each channel
        budget = budget.sqrt() if order == 2 else budget * self.channels  # in L1 the projection cuts what is too much
        old = delta[here]
        pattern = bump(side, bool(self.transposed[int(query)]), order).to(x) * self.signs[query][:, :, None, None]
        fresh = _normalised(pattern + _normalised(old, order), order) * budget
        delta[there] = 0
        delta[here] = fresh
        return delta

    def _corner(self, queries: Tensor, which: int, side: Tensor, size: int) -> Tensor:
        """Where the square begins in a direction with `size` pixels."""
        return (self.places[queries, which] * (size - side + 1)).long().minimum(size - side)


def size_schedule(query: int) -> float:
    """The area of the squares at this query relative to the first (section 4, for `SCHEDULE_QUERIES` queries)."""
    halvings = sum(query > bound for bound in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))
    return 0.5**halvings


def tiles(x: Tensor, threat: Threat, draws: Draws) -> Tensor:
    """L2 and L1: a grid of bumps with random signs, at least five a side, in the middle; brought into the ball."""
    order = 2 if threat.norm == "l2" else 1
    side = max(min(x.shape[2], x.shape[3]) // 5, 1)
    top, left = x.shape[2] % side // 2, x.shape[3] % side // 2
    pattern = bump(side, False, order).to(x)
    delta = torch.zeros_like(x)
    signs = draws.signs(x.shape[2] // side, x.shape[3] // side, x.shape[1]).to(x)
    for row in range(signs.shape[1]):
        for column in range(signs.shape[2]):
            above, before = top + row * side, left + column * side
            place = (..., slice(above, above + side), slice(before, before + side))
            delta[place] = pattern * signs[:, row, column, :, None, None]
    return project(x + (_scaled(delta, threat.eps) if order == 2 else delta), x, threat)


def bump(side: int, transposed: bool, order: int = 2) -> Tensor:
    """Two neighbouring pyramids of opposite sign, of unit length in L2 or L1 (`order` 2 or 1): side×side."""
    half = side // 2
    pyramids = torch.cat([_pyramid(half, side, order), -_pyramid(side - half, side, order)])
    return _normalised(pyramids.T if transposed else pyramids, order)


def _pyramid(height: int, width: int, order: int) -> Tensor:
    """Nested rectangles around the middle, the inner ones higher (equation 2 of the paper); in L1 steeper."""
    hill = torch.zeros(height, width)
    middle, centre = height // 2, width // 2
    for ring in range(max(height // 2 + 1, width // 2 + 1)):
        rows = slice(max(middle - ring, 0), min(middle + ring + 1, height))
        hill[rows, max(centre - ring, 0) : min(centre + ring + 1, width)] += (ring + 1) ** (-4 / order)
    return _normalised(hill, order)


def _normalised(shape: Tensor, order: int) -> Tensor:
    """Images (…×H×W) of unit length in L2 or L1."""
    lengths: Tensor = shape.flatten(-2).norm(p=order, dim=-1)
    return shape / lengths[..., None, None].clamp_min(1e-12)


def lengthen(x_adv: Tensor, like: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """The perturbations of `x_adv`, as long as those of `like`, of which a mask has cut off a part (all B×C×H×W)."""
    longer, own = (distance(each, x, threat.norm) for each in (like, x_adv))
    return project(x + (x_adv - x) * per_sample(longer / own.clamp_min(1e-12), x), x, threat)


def _scaled(delta: Tensor, eps: float) -> Tensor:
    return delta / per_sample(delta.flatten(1).norm(dim=1), delta).clamp_min(1e-12) * eps


def _sum_of_powers(delta: Tensor, order: int) -> Tensor:
    """Sum of |δ|^`order` per image: B×1×1×1."""
    return per_sample(delta.abs().pow(order).flatten(1).sum(dim=1), delta)
