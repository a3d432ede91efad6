"""Boxes of values, and outward rounding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inoculate.certification.bounds.region import Region


@dataclass(frozen=True, eq=False)
class Ball:
    """Values that are affine in the images, as long as they are: at the image, and how far a unit step changes them.

    Fields:
        value: at the images (B×…), but for rounding of at most `error`.
        norm: dual norm of each value's gradient, or more (B×…).
        dual: the exponent of the dual norm.
        disjoint: whether no two values depend on the same pixel.
        eps: the length of the step.
    """

    value: Tensor
    error: Tensor
    norm: Tensor
    dual: float
    eps: float
    disjoint: bool = True


@dataclass(frozen=True, eq=False)
class Box:
    """All values from `low` to `high` (both B×…).

    Where these are affine in the images, `ball` knows more in L2 and L1.
    """

    low: Tensor
    high: Tensor
    ball: Ball | None = None

    @classmethod
    def of(cls, region: Region) -> Box:
        """The pixels of a region."""
        ball = None
        if region.dual is not None:
            norm = (region.above > region.below).to(region.x)
            ball = Ball(region.x, torch.zeros_like(region.x), norm, region.dual, region.eps)
        return outward(region.x + region.below, region.x + region.above, region.x.abs() + region.eps, 2, ball)

    def to(self, dtype: torch.dtype) -> Box:
        """The ends in a finer precision."""
        return Box(self.low.to(dtype), self.high.to(dtype))

    @property
    def centre(self) -> Tensor:
        return (self.low + self.high) / 2

    @property
    def radius(self) -> Tensor:
        """Such that all of the box lies within it of the centre, in spite of rounding."""
        radius = (self.high - self.low) / 2
        return radius + rounding(3, self.low.dtype) * torch.maximum(self.low.abs(), self.high.abs())

    @property
    def size(self) -> Tensor:
        """The largest absolute value."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def within(self, ball: Ball | None) -> Box:
        """The box, cut off at what `ball` knows."""
        if ball is None:
            return self
        reach = ball.norm * ball.eps + ball.error
        found = outward(ball.value - reach, ball.value + reach, ball.value.abs() + reach, 4)
        return Box(torch.maximum(self.low, found.low), torch.minimum(self.high, found.high), ball)


def rounding(terms: int, dtype: torch.dtype) -> float:
    """The most relative error of so many operations in any order, γₙ = n·u / (1 − n·u) (Higham 2002, lemma 3.1)."""
    unit = torch.finfo(dtype).eps / 2
    return terms * unit / (1 - terms * unit)


def outward(low: Tensor, high: Tensor, size: Tensor, terms: int, ball: Ball | None = None) -> Box:
    """The box of ends that were computed with so many operations on numbers whose absolute values add up to `size`."""
    error = rounding(terms + 4, low.dtype) * size + torch.finfo(low.dtype).tiny
    return Box(low - error, high + error, ball)
