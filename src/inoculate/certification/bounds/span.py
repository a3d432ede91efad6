"""Boxes as centre and radius, without regard to rounding: gradients pass through them, for training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from inoculate.core.threat import Threat


@dataclass(frozen=True, eq=False)
class Span:
    """All values within `radius` of `centre` (both B×…); `points` (B×…, or None) pass through the layers beside it."""

    centre: Tensor
    radius: Tensor
    points: Tensor | None = None

    @classmethod
    def around(cls, x: Tensor, threat: Threat, points: Tensor | None = None) -> Span:
        """All images within the L∞ ball at `x` (B×C×H×W) and the valid range."""
        low, high = (x - threat.eps).clamp_min(threat.low), (x + threat.eps).clamp_max(threat.high)
        return cls((low + high) / 2, (high - low) / 2, points)

    @property
    def low(self) -> Tensor:
        return self.centre - self.radius

    @property
    def high(self) -> Tensor:
        return self.centre + self.radius

    def to(self, dtype: torch.dtype) -> Span:
        """Centre and radius in another precision."""
        return Span(self.centre.to(dtype), self.radius.to(dtype))

    def affine(self, function: Callable[[Tensor], Tensor], radius: Tensor) -> Span:
        """What an affine function makes of centre and points, both in one pass; it makes `radius` of the radius."""
        if self.points is None:
            return Span(function(self.centre), radius)
        both = function(torch.cat([self.centre, self.points]))
        return Span(both[: len(radius)], radius, both[len(radius) :])

    def monotone(self, function: Callable[[Tensor], Tensor]) -> Span:
        """What a function makes of it that never falls in any value."""
        low, high = function(self.low), function(self.high)
        return Span((high + low) / 2, (high - low) / 2, None if self.points is None else function(self.points))
