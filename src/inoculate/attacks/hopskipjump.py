"""HopSkipJump: a walk along the decision boundary that needs labels only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks._decisions import (
    HALVINGS,
    Decisions,
    LabelsOnlySearch,
    Points,
    bisect,
    made_for,
    walk_along_boundary,
)
from inoculate.attacks._minimum_norm import search_unbroken
from inoculate.attacks.losses import Objective
from inoculate.core.options import require_count
from inoculate.core.threat import Threat, per_sample, steepest_direction

JUMPS = 10  # lengths of a jump that are tried


@dataclass(frozen=True)
class HopSkipJump(LabelsOnlySearch):
    """The nearest adversarial image, by jumps along the boundary's estimated normal; needs labels only.

    For images B×C×H×W in the threat's range, norms linf and l2. It starts from the nearest of four adversarial images
    found by noise. A jump has the length distance / √(its number), halved until it ends on the adversarial side; the
    way back to the image is bisected. The generator decides about the noise.

    Options:
        queries: passes per image at most.
        samples: queries for the first estimate of the normal; those for number n are √n times as many.

    Raises `InputError` for another norm, an option out of its range, or images outside theirs.
    Source: Chen, Jordan and Wainwright 2020, algorithm 2.
    """

    queries: int = 5000
    samples: int = 100

    def __post_init__(self) -> None:
        require_count(queries=self.queries, samples=self.samples)

    def shortened(self) -> HopSkipJump:
        """The same attack with 20 queries."""
        return replace(self, queries=20)

    def _search(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator | None
    ) -> Tensor:
        if threat.norm not in ("linf", "l2"):
            raise made_for("HopSkipJump", "linf and l2", threat.norm)

        def walk(x: Tensor, objective: Objective) -> Tensor:
            decide = Decisions.begin(model, x, objective, threat, self.queries)
            return walk_along_boundary(decide, x, generator, self.samples, _jump, JUMPS + HALVINGS)

        return search_unbroken(model, x, y, threat, None, generator, walk)


def _jump(points: Points, normals: Tensor, number: int) -> Tensor:
    """The boundary behind the longest jump along the normal that ends on the adversarial side; else the point."""
    direction = steepest_direction(normals, points.threat.norm)
    length, ends = points.length / math.sqrt(number), points.boundary
    landed = torch.zeros_like(points.rows, dtype=torch.bool)
    for _ in range(JUMPS):
        ahead = points.boundary + per_sample(length, ends) * direction
        waiting = points.select(~landed)
        images = ahead.clamp(points.threat.low, points.threat.high)[~landed]
        adversarial = waiting.adversarial(images)
        arrived = (~landed).nonzero().squeeze(1)[adversarial]
        ends = ends.index_copy(0, arrived, images[adversarial])
        landed[arrived], length = True, length / 2
        if bool(landed.all()):
            break
    return bisect(points, ends)
