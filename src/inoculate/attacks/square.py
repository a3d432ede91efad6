"""Square attack: random squares of colour, kept where they help. It needs no gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inoculate.attacks.attack import carry_out, check_options, fooled
from inoculate.attacks.losses import in_full, margin
from inoculate.errors import InputError
from inoculate.rng import Draws
from inoculate.threat import Threat, per_sample, project

Propose = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Square:
    """Random search over squares (Andriushchenko et al. 2020, algorithms 1 to 3) for L∞ and L2, by the margin loss.

    `queries` passes per image at most; `p` is the share of pixels that the first squares cover. All images share the
    same squares, which `generator` decides. An image is left alone as soon as it is misclassified. `give_up`: so is one
    whose way to the boundary, after a fifth of the queries, is still longer than `give_up` times the way it came.
    """

    queries: int = 5000
    p: float = 0.8
    give_up: float = math.inf

    def __post_init__(self) -> None:
        check_options(queries=self.queries, give_up=self.give_up)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        if threat.norm == "l1":
            raise InputError("the Square attack is made for linf and l2: for l1 use pgd with many steps, fab_t or fmn")
        if generator is None:
            generator = torch.Generator().manual_seed(0)

        def craft(x: Tensor, y: Tensor) -> Tensor:
            draws = Draws(x, generator)
            shared = torch.Generator().manual_seed(
                int(torch.randint(2**62, (), generator=generator, device=generator.device))
            )
            with torch.no_grad():
                if threat.norm == "linf":
                    stripes = draws.signs(x.shape[1], 1, x.shape[3]).to(x)
                    start = project(x + threat.eps * stripes, x, threat)
                    return self._search(model, x, y, start, lambda x, z, side: _window(x, z, side, threat, shared))
                start = _tiled(x, threat, draws)
                return self._search(model, x, y, start, lambda x, z, side: _two_windows(x, z, side, threat, shared))

        return carry_out(model, x, y, threat, craft)

    def _search(self, model: nn.Module, x: Tensor, y: Tensor, start: Tensor, propose: Propose) -> Tensor:
        """Keep each proposal that lowers the margin; the last images, misclassified or not."""
        result, rows = start.clone(), torch.arange(len(x), device=x.device)
        best, height = start, torch.full_like(y, -torch.inf, dtype=torch.float32)
        trial, first = start, height
        pixels = x.shape[2] * x.shape[3]
        for query in range(self.queries + 1):
            logits = in_full(model(trial))
            value = margin(logits, y).float()
            better = value > height
            best = torch.where(per_sample(better, x), trial, best)
            height = torch.where(better, value, height)
            first = height if query == 0 else first
            done = fooled(model, trial, logits, y)
            result[rows[done]] = trial[done]
            keep = ~done
            if query == self.queries // 5:
                hopeless = keep & (-height > self.give_up * (height - first))
                result[rows[hopeless]] = best[hopeless]
                keep &= ~hopeless
            if not keep.all():
                rows, x, y = rows[keep], x[keep], y[keep]
                best, height, first = best[keep], height[keep], first[keep]
                if not len(rows):
                    return result
            if query < self.queries:
                trial = propose(x, best, max(round(math.sqrt(self.p * _share(query) * pixels)), 1))
        result[rows] = best
        return result


def _share(query: int) -> float:
    """By how much the squares have shrunk at this query (section 4 of the paper, for 10,000 queries)."""
    halvings = sum(query > bound for bound in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))
    return 0.5**halvings


def _corner(size: int, side: int, generator: torch.Generator) -> int:
    return int(torch.randint(max(size - side, 0) + 1, (), generator=generator))


def _window(x: Tensor, best: Tensor, side: int, threat: Threat, generator: torch.Generator) -> Tensor:
    """L∞: one square takes ±eps per channel, added to what is there and cut back to the ball."""
    high, wide = min(side, x.shape[2]), min(side, x.shape[3])
    top, left = _corner(x.shape[2], high, generator), _corner(x.shape[3], wide, generator)
    colour = (torch.randint(2, (1, x.shape[1], 1, 1), generator=generator) * 2 - 1).to(x)
    place = (..., slice(top, top + high), slice(left, left + wide))
    trial = best.clone()
    trial[place] = project(best[place] + 2 * threat.eps * colour, x[place], threat)
    return trial


def _tiled(x: Tensor, threat: Threat, draws: Draws) -> Tensor:
    """L2: a grid of 5×5 bumps with random signs, scaled to the ball."""
    side = max(min(x.shape[2], x.shape[3]) // 5, 1)
    bump = _bump(side, turned=False).to(x)
    delta = torch.zeros_like(x)
    signs = draws.signs(x.shape[2] // side, x.shape[3] // side, x.shape[1]).to(x)
    for row in range(signs.shape[1]):
        for column in range(signs.shape[2]):
            place = (..., slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side))
            delta[place] = bump * signs[:, row, column, :, None, None]
    return project(x + _scaled(delta, threat.eps), x, threat)


def _two_windows(x: Tensor, best: Tensor, side: int, threat: Threat, generator: torch.Generator) -> Tensor:
    """L2: the mass of one window moves to another, with what the ball has left."""
    side = min(max(side, 3), x.shape[2], x.shape[3])
    side -= 1 - side % 2 if side > 1 else 0
    channels = x.shape[1]
    delta = best - x
    top, left, other_top, other_left = (_corner(x.shape[2 + i % 2], side, generator) for i in range(4))
    here = (..., slice(top, top + side), slice(left, left + side))
    there = (..., slice(other_top, other_top + side), slice(other_left, other_left + side))
    mask = torch.zeros_like(x[:1])
    mask[here] = mask[there] = 1
    left_over = (threat.eps**2 - _square_sum(delta)).clamp_min(0) / channels
    budget = (left_over + _square_sum(delta * mask)).sqrt()
    turned = bool(torch.randint(2, (), generator=generator))
    signs = (torch.randint(2, (1, channels, 1, 1), generator=generator) * 2 - 1).to(x)
    old = delta[here]
    fresh = _bump(side, turned).to(x) * signs + old / old.flatten(2).norm(dim=2)[..., None, None].clamp_min(1e-12)
    fresh = fresh / fresh.flatten(2).norm(dim=2)[..., None, None].clamp_min(1e-12) * budget
    delta[there] = 0
    delta[here] = fresh
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
