"""Operators that are not affine: backward they pass lower or upper lines, by the sign of the coefficient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from inoculate.certification.bounds.box import Box, outward
from inoculate.certification.bounds.operators import Ends, Passed, total
from inoculate.certification.bounds.span import Span

NARROW = 1e-8  # where a box is narrower the chord is flatter than it need be: its slope keeps a finite gradient


@dataclass(frozen=True, eq=False)
class LeakyReLU:
    """max(x, `slope` · x), where 0 ≤ `slope` ≤ 1; ReLU has slope 0.

    Its upper line is the chord, its lower one that of the side on which the box reaches further (Zhang et al. 2018).
    """

    slope: float = 0.0
    affine = False
    mixes = True
    kinked = True

    def value(self, *inputs: Tensor) -> Tensor:
        return F.leaky_relu(inputs[0], self.slope) if self.slope else F.relu(inputs[0])

    def interval(self, *boxes: Box) -> Box:
        low, high = self.value(boxes[0].low), self.value(boxes[0].high)
        return outward(low, high, boxes[0].size, 1) if self.slope else Box(low, high)

    def span(self, *spans: Span) -> Span:
        return spans[0].monotone(self.value)

    def backward(self, weight: Tensor, *boxes: Ends) -> Passed:
        low, high = boxes[0].low.clamp_max(0), boxes[0].high.clamp_min(0)
        chord = (high - self.slope * low) / (high - low).clamp_min(NARROW)
        chord = torch.where(boxes[0].high <= 0, self.slope, chord)
        lower = torch.where(high > -low, 1.0, self.slope).to(low)
        offset = high - chord * high  # the chord ends in (high, high)
        up, down = weight.clamp_min(0), weight.clamp_max(0)
        return [up * lower.unsqueeze(1) + down * chord.unsqueeze(1)], total(down * offset.unsqueeze(1))


@dataclass(frozen=True, eq=False)
class Monotone:
    """A function that never falls in any value: sigmoid, tanh, clamping. Its lines are flat, at the ends of its box.

    terms: of the rounding of an output, relative to 1 + |x|; 0 for none.
    """

    function: Callable[[Tensor], Tensor]
    terms: int = 8
    affine = False
    mixes = True
    kinked = False

    def value(self, *inputs: Tensor) -> Tensor:
        return self.function(inputs[0])

    def interval(self, *boxes: Box) -> Box:
        low, high = self.function(boxes[0].low), self.function(boxes[0].high)
        return (
            outward(low, high, 1 + torch.maximum(low.abs(), high.abs()), self.terms) if self.terms else Box(low, high)
        )

    def span(self, *spans: Span) -> Span:
        return spans[0].monotone(self.value)

    def backward(self, weight: Tensor, *boxes: Ends) -> Passed:
        box = self.interval(Box(boxes[0].low, boxes[0].high))
        flat = torch.minimum(weight * box.low.unsqueeze(1), weight * box.high.unsqueeze(1))
        return [weight.new_zeros(*weight.shape[:2], *boxes[0].low.shape[1:])], total(flat)


@dataclass(frozen=True, eq=False)
class MaxPooled:
    """The largest of the values in each window.

    windows: inputs (B×…) to the values of each output (B×outputs×n), −∞ outside of the image.

    The lower line is the value whose lower end is highest; so is the upper one where nothing can exceed it, else it is
    the largest end.
    """

    function: Callable[[Tensor], Tensor]
    windows: Callable[[Tensor], Tensor]
    inputs: tuple[int, ...]
    affine = False
    mixes = True
    kinked = False

    def value(self, *inputs: Tensor) -> Tensor:
        return self.function(inputs[0])

    def interval(self, *boxes: Box) -> Box:
        return Box(self.function(boxes[0].low), self.function(boxes[0].high))

    def span(self, *spans: Span) -> Span:
        return spans[0].monotone(self.value)

    def backward(self, weight: Tensor, *boxes: Ends) -> Passed:
        low, high = self.windows(boxes[0].low), self.windows(boxes[0].high)
        best = low.argmax(dim=-1, keepdim=True)
        others = high.scatter(-1, best, -torch.inf).amax(dim=-1)
        wins = low.gather(-1, best).squeeze(-1) >= others
        numbers = torch.arange(prod(self.inputs), device=low.device, dtype=low.dtype).view(1, *self.inputs)
        places = self.windows(numbers.expand(len(low), *self.inputs).contiguous()).gather(-1, best).squeeze(-1)
        passed = weight * ((weight > 0) | wins.unsqueeze(1))
        offset = total(torch.where(wins.unsqueeze(1), 0.0, weight.clamp_max(0) * high.amax(dim=-1).unsqueeze(1)))
        flat = passed.flatten(2)
        back = flat.new_zeros(*flat.shape[:2], prod(self.inputs))
        back.scatter_add_(2, places.long().flatten(1).unsqueeze(1).expand_as(flat), flat)
        return [back.view(*flat.shape[:2], *self.inputs)], offset
