"""RayS: search for the signs of a perturbation in L∞; needs labels only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks._decisions import Decisions, LabelsOnlySearch, made_for
from inoculate.attacks._minimum_norm import search_unbroken
from inoculate.attacks.losses import Objective
from inoculate.core.options import require_count
from inoculate.core.threat import Threat, per_sample

TOLERANCE = 1e-3  # of a radius, times the width of the range


@dataclass(frozen=True)
class RayS(LabelsOnlySearch):
    """The nearest adversarial image in L∞, by a search over the signs of its perturbation; needs labels only.

    For images B×C×H×W in the threat's range, norm linf only. All values of an image move by the same length, up or
    down. The signs of a block of values are reversed, and stay so where the boundary is nearer that way: first of all
    values, then of halves, quarters, and so on, then from the beginning. Nothing is random.

    Options:
        queries: passes per image at most.

    Raises `InputError` for another norm, an option out of its range, or images outside theirs.
    Source: Chen and Gu 2020, algorithm 3.
    """

    queries: int = 5000

    def __post_init__(self) -> None:
        require_count(queries=self.queries)

    def shortened(self) -> RayS:
        """The same attack with 20 queries."""
        return replace(self, queries=20)

    def _search(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator | None
    ) -> Tensor:
        if threat.norm != "linf":
            raise made_for("RayS", "linf", threat.norm)

        def search(x: Tensor, objective: Objective) -> Tensor:
            return _Rays.begin(Decisions.begin(model, x, objective, threat, self.queries), x).search()

        return search_unbroken(model, x, y, threat, None, generator, search)


@dataclass(eq=False)
class _Rays:
    """The best signs found for each image (B×D) and the radius (B) at which they are adversarial, ∞ where none is."""

    decide: Decisions
    x: Tensor
    signs: Tensor
    radius: Tensor

    @classmethod
    def begin(cls, decide: Decisions, x: Tensor) -> _Rays:
        signs = torch.ones_like(x.flatten(1))
        return cls(decide, x, signs, torch.full_like(signs[:, 0], torch.inf))

    def search(self) -> Tensor:
        """Reverse block after block until the queries are used up; the nearest adversarial images."""
        every, values = torch.arange(len(self.x), device=self.x.device), self.signs.shape[1]
        rows = self.decide.affordable(every, 1)
        self._try(rows, slice(0, 0))
        blocks = 1
        while True:
            size = -(-values // blocks)
            for begin in range(0, values, size):
                rows = self.decide.affordable(rows, 1)
                if not len(rows):
                    found = self._images(every, self.signs, self.radius)
                    return torch.where(per_sample(self.radius.isfinite(), self.x), found, self.x)
                self._try(rows, slice(begin, begin + size))
            blocks = 2 * blocks if size > 1 else 1

    def _try(self, rows: Tensor, block: slice) -> None:
        """Reverse the signs of a block; keep them where that is adversarial at the radius, and bisect that."""
        width = self.decide.threat.high - self.decide.threat.low
        signs = self.signs[rows]
        signs[:, block] *= -1
        radius = self.radius[rows].clamp_max(width)
        nearer = self.decide(self._images(rows, signs, radius), rows)
        rows, signs, high = rows[nearer], signs[nearer], radius[nearer]
        low = torch.zeros_like(high)
        while True:
            wide = (high - low > TOLERANCE * width) & self.decide.may(rows, 1)
            if not bool(wide.any()):
                break
            middle = (low[wide] + high[wide]) / 2
            adversarial = self.decide(self._images(rows[wide], signs[wide], middle), rows[wide])
            high[wide], low[wide] = (
                torch.where(adversarial, middle, high[wide]),
                torch.where(adversarial, low[wide], middle),
            )
        self.signs[rows], self.radius[rows] = signs, high

    def _images(self, rows: Tensor, signs: Tensor, radius: Tensor) -> Tensor:
        """The images `rows`, moved by `radius` (R) along `signs` (R×D)."""
        x, threat = self.x[rows], self.decide.threat
        moved = (x + per_sample(radius, x) * signs.view_as(x)).clamp(threat.low, threat.high)
        return self.decide.objective.select(rows).inside(moved, x)
