"""Square attack: random squares of colour, kept where they help. It needs no gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks import success
from inoculate.attacks._batching import full_batch
from inoculate.attacks.base import carry_out
from inoculate.attacks.losses import LOSSES, Objective, to_fp32
from inoculate.attacks.success import is_adversarial, verify_adversarial
from inoculate.attacks.targets import Target, check_target, resolve_targets
from inoculate.attacks.termination import check_termination_ratio, is_hopeless
from inoculate.core.errors import InputError
from inoculate.core.options import require_count
from inoculate.core.rng import Draws, drawn_seed
from inoculate.core.threat import Threat, per_sample, project
from inoculate.models.acceleration.fast import full_precision

Propose = Callable[[Tensor, Tensor, Tensor, Threat], Tensor]


@dataclass(frozen=True)
class Square:
    """Random search over squares (Andriushchenko et al. 2020, algorithms 1 to 3) for L∞ and L2, by the margin loss.

    `queries` passes per image at most; `p` is the share of pixels that the first squares cover. All images share the
    same squares, which `generator` decides. An image is left alone as soon as it is misclassified. `termination_ratio`: so is one
    whose way to the boundary, after a fifth of the queries, is still longer than `termination_ratio` times the way it came. With
    a `target` (as in `OneStepTarget`) it raises that class's margin, and only an image that is taken for it is done.
    """

    queries: int = 5000
    p: float = 0.8
    termination_ratio: float = math.inf
    target: Target = None

    def __post_init__(self) -> None:
        require_count(queries=self.queries)
        check_termination_ratio(self.termination_ratio)
        check_target(self.target)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        if threat.norm == "l1":
            raise InputError("the Square attack is made for linf and l2: for l1 use pgd with many steps, fab_t or fmn")

        def craft(x: Tensor, y: Tensor) -> Tensor:
            draws = Draws(x, generator)
            squares = _Squares(self.queries, self.p, x, generator)
            if threat.norm == "linf":
                stripes = draws.signs(x.shape[1], 1, x.shape[3]).to(x)
                start, propose = project(x + threat.eps * stripes, x, threat), squares.linf
            else:
                start, propose = _tiled(x, threat, draws), squares.l2
            # it climbs by steps that bf16, with its three digits, would not see
            with torch.no_grad(), full_precision(model):
                goal = Objective(LOSSES["margin"], y, resolve_targets(model, x, y, self.target, generator))
                return self._search(model, x, goal, threat, start, propose)

        return carry_out(model, x, y, threat, craft)

    def shortened(self) -> Square:
        """The same attack with two queries."""
        return replace(self, queries=2)

    def _search(
        self, model: nn.Module, x: Tensor, goal: Objective, threat: Threat, start: Tensor, propose: Propose
    ) -> Tensor:
        """Keep each proposal that raises the goal; the last images, misclassified or not.

        Few images fill a batch with several proposals each: all are compared with the same image, up to the first that
        helps, so the search is the same as one by one. For L2, whose squares depend on all before them, it is one each.
        """
        result, rows = start.clone(), torch.arange(len(x), device=x.device)
        logits = to_fp32(model(start))
        best, height = start, goal(logits).float()
        first, at = height, torch.zeros_like(goal.y)  # how far each image was at first, and the next square it will see
        done, fifth = is_adversarial(logits, goal.y, goal.target), self.queries // 5
        done = verify_adversarial(model, start, done, goal.y, goal.target)
        moved, hopeless = torch.zeros_like(done), torch.zeros_like(done)
        number, most = 0, 128 if x.is_cuda else 16
        while True:
            hopeless |= (at == max(fifth, 1)) & is_hopeless(first, height, self.termination_ratio)
            if success.should_check_success(number, x.device):
                if number:
                    done = verify_adversarial(model, best, moved & (height > 0), goal.y, goal.target)
                    moved = torch.zeros_like(moved)
                stop = done | hopeless | (at >= self.queries)
                if stop.any():
                    result[rows[stop]] = best[stop]
                    keep = ~stop
                    rows, x, goal, at, moved = rows[keep], x[keep], goal.select(keep), at[keep], moved[keep]
                    best, height, first, hopeless = best[keep], height[keep], first[keep], hopeless[keep]
                    if not len(rows):
                        return result
            ahead = max(1, min(most, full_batch(x) // 2 // len(rows))) if threat.norm == "linf" else 1
            index = at[:, None] + torch.arange(ahead, device=x.device)
            end = torch.where(at < fifth, fifth, self.queries)[:, None]
            many = torch.arange(len(x), device=x.device).repeat_interleave(ahead)
            trial = propose(x[many], best[many], index.flatten().clamp_max(self.queries - 1), threat)
            logits = to_fp32(model(trial))
            value = goal.select(many)(logits).float().view(-1, ahead)
            better = (value > height[:, None]) & (index < end)
            helps, which = better.any(dim=1), better.int().argmax(dim=1)
            chosen = torch.arange(len(x), device=x.device) * ahead + which
            best = torch.where(per_sample(helps, x), trial[chosen], best)
            height = torch.where(helps, value.flatten()[chosen], height)
            at = torch.where(helps, at + which + 1, (at + ahead).minimum(end[:, 0]))
            moved, number = moved | helps, number + 1


class _Squares:
    """The squares that all images see, decided by the generator alone: for each query a place, a size and colours."""

    def __init__(self, queries: int, p: float, x: Tensor, generator: torch.Generator | None) -> None:
        g = torch.Generator().manual_seed(drawn_seed(generator))
        self.channels, self.height, self.width = x.shape[1:]
        shares = [p * _share(query) * self.height * self.width for query in range(queries)]
        side = torch.tensor([max(round(math.sqrt(share)), 1) for share in shares])
        self.side = side.clamp_max(min(self.height, self.width)).to(x.device)
        self.places = torch.rand(queries, 4, generator=g).to(
            x.device
        )  # of two squares, relative to the room that their size leaves
        self.signs = (torch.randint(2, (queries, self.channels), generator=g) * 2 - 1).to(x)
        self.turned = torch.randint(2, (queries,), generator=g).tolist()

    def linf(self, x: Tensor, best: Tensor, index: Tensor, threat: Threat) -> Tensor:
        """One square per image takes ±eps per channel, added to what is there and cut back to the ball."""
        side = self.side[index]
        top, left = self._corner(index, 0, side, self.height), self._corner(index, 1, side, self.width)
        down, across = torch.arange(self.height, device=x.device), torch.arange(self.width, device=x.device)
        inside_down = (down >= top[:, None]) & (down < (top + side)[:, None])
        inside_across = (across >= left[:, None]) & (across < (left + side)[:, None])
        mask = inside_down[:, None, :, None] & inside_across[:, None, None, :]
        colour = 2 * threat.eps * self.signs[index][:, :, None, None]
        return project(best + colour * mask, x, threat)

    def l2(self, x: Tensor, best: Tensor, index: Tensor, threat: Threat) -> Tensor:
        """The mass of one square moves to another, with what the ball has left. All images see the same squares."""
        query = index[:1]
        side = max(int(self.side[query]), 3)
        side = min(side + 1 - side % 2, self.height, self.width)  # odd, as its middle is a pixel
        sides = torch.tensor([side], device=x.device)
        top, other_top = (int(self._corner(query, i, sides, self.height)) for i in (0, 2))
        left, other_left = (int(self._corner(query, i, sides, self.width)) for i in (1, 3))
        here = (..., slice(top, top + side), slice(left, left + side))
        there = (..., slice(other_top, other_top + side), slice(other_left, other_left + side))
        delta = best - x
        mask = torch.zeros_like(x[:1])
        mask[here] = mask[there] = 1
        left_over = (threat.eps**2 - _square_sum(delta)).clamp_min(0) / self.channels
        budget = (left_over + ((delta * mask) ** 2).sum(dim=(2, 3), keepdim=True)).sqrt()  # of each channel
        old = delta[here]
        bump = _bump(side, bool(self.turned[int(query)])).to(x) * self.signs[query][:, :, None, None]
        fresh = bump + old / old.flatten(2).norm(dim=2)[..., None, None].clamp_min(1e-12)
        fresh = fresh / fresh.flatten(2).norm(dim=2)[..., None, None].clamp_min(1e-12) * budget
        delta[there] = 0
        delta[here] = fresh
        return project(x + _scaled(delta, threat.eps), x, threat)

    def _corner(self, index: Tensor, which: int, side: Tensor, size: int) -> Tensor:
        """Where the square begins in a direction with `size` pixels."""
        return (self.places[index, which] * (size - side + 1)).long().minimum(size - side)


def _share(query: int) -> float:
    """By how much the squares have shrunk at this query (section 4 of the paper, for 10,000 queries)."""
    halvings = sum(query > bound for bound in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))
    return 0.5**halvings


def _tiled(x: Tensor, threat: Threat, draws: Draws) -> Tensor:
    """L2: a grid of bumps with random signs, at least five a side, in the middle; scaled to the ball."""
    side = max(min(x.shape[2], x.shape[3]) // 5, 1)
    top, left = x.shape[2] % side // 2, x.shape[3] % side // 2
    bump = _bump(side, turned=False).to(x)
    delta = torch.zeros_like(x)
    signs = draws.signs(x.shape[2] // side, x.shape[3] // side, x.shape[1]).to(x)
    for row in range(signs.shape[1]):
        for column in range(signs.shape[2]):
            above, before = top + row * side, left + column * side
            place = (..., slice(above, above + side), slice(before, before + side))
            delta[place] = bump * signs[:, row, column, :, None, None]
    return project(x + _scaled(delta, threat.eps), x, threat)


def _bump(side: int, turned: bool) -> Tensor:
    """Two neighbouring pyramids of opposite sign, of unit length (side×side)."""
    half = side // 2
    bump = torch.cat([_pyramid(half, side), -_pyramid(side - half, side)])
    return _unit(bump.T if turned else bump)


def _pyramid(height: int, width: int) -> Tensor:
    """Nested rectangles around the middle, the inner ones higher (equation 2 of the paper)."""
    hill = torch.zeros(height, width)
    middle, centre = height // 2, width // 2
    for ring in range(max(height // 2 + 1, width // 2 + 1)):
        rows = slice(max(middle - ring, 0), min(middle + ring + 1, height))
        hill[rows, max(centre - ring, 0) : min(centre + ring + 1, width)] += 1 / (ring + 1) ** 2
    return _unit(hill)


def _unit(shape: Tensor) -> Tensor:
    length: Tensor = shape.norm()
    return shape / length.clamp_min(1e-12)


def _scaled(delta: Tensor, eps: float) -> Tensor:
    return delta / per_sample(delta.flatten(1).norm(dim=1), delta).clamp_min(1e-12) * eps


def _square_sum(delta: Tensor) -> Tensor:
    """Sum of squares per image: B×1×1×1."""
    return per_sample((delta**2).flatten(1).sum(dim=1), delta)
