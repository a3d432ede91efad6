"""Affine operators: their backward pass is exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from inoculate.certification.bounds.box import Ball, Box, outward, rounding
from inoculate.certification.bounds.operators import Ends, Passed, nothing, total
from inoculate.certification.bounds.span import Span


@dataclass(frozen=True, eq=False)
class Weighted:
    """A convolution or a linear layer: `apply(x, weight)` plus `bias`, which broadcasts to the output (B×…).

    transposed: `(coefficients, weight)` to those on the input of the shape `inputs` (without the batch).
    """

    weight: Tensor
    bias: Tensor | None
    apply: Callable[[Tensor, Tensor], Tensor]
    transposed: Callable[[Tensor, Tensor], Tensor]
    inputs: tuple[int, ...]
    affine = True
    mixes = True
    kinked = False

    def value(self, *inputs: Tensor) -> Tensor:
        out = self.apply(inputs[0], self.weight)
        return out if self.bias is None else out + self.bias

    def interval(self, *boxes: Box) -> Box:
        (box,), size, terms = boxes, self.weight.abs(), self.terms
        centre, radius = box.centre, box.radius
        error = rounding(terms + 4, centre.dtype)  # of the middle, and of the layer itself on any values of the box
        out = self.value(centre)
        reach = self.apply(radius + 2 * error * (centre.abs() + radius), size) * (1 + 2 * error)
        if self.bias is not None:
            reach = reach + 2 * error * self.bias.abs()
        return outward(out - reach, out + reach, out.abs() + reach, 2).within(self._ball(box.ball, size, error))

    @property
    def terms(self) -> int:
        """How many products are added up in an output."""
        return self.weight[0].numel() + 1

    def _ball(self, ball: Ball | None, size: Tensor, error: float) -> Ball | None:
        if ball is None:
            return None
        rounded = ball.error + 2 * error * (ball.value.abs() + ball.norm * ball.eps)
        wrong = self.apply(rounded, size) * (1 + 2 * error)
        if self.bias is not None:
            wrong = wrong + 2 * error * self.bias.abs()
        value = self.value(ball.value)
        if not ball.disjoint:
            norm = self.apply(ball.norm, size)
        elif ball.dual == 2:
            norm = self.apply(ball.norm**2, size**2).clamp_min(0).sqrt()
        else:
            steepest = (size * ball.norm.max()).flatten(1).amax(dim=1)  # for each output map
            norm = torch.zeros_like(value) + steepest.view(-1, *[1] * (self.weight.ndim - 2))
        return Ball(value, wrong, norm * (1 + 2 * error), ball.dual, ball.eps, disjoint=False)

    def span(self, *spans: Span) -> Span:
        return spans[0].affine(self.value, self.apply(spans[0].radius, self.weight.abs()))

    def backward(self, weight: Tensor, *boxes: Ends) -> Passed:
        back = self.transposed(weight.flatten(0, 1), self.weight).view(*weight.shape[:2], *self.inputs)
        if self.bias is None:
            return [back], nothing(weight)
        bias = self.bias.expand(weight.shape[2:]).flatten()
        return [back], torch.einsum("bsn,n->bs", weight.flatten(2), bias)


@dataclass(frozen=True, eq=False)
class Scaled:
    """Each value times `scale` plus `shift`, which broadcast (1×…): BatchNorm in eval mode, normalisation.

    size: the absolute values of what the layer adds up to the shift, such as BatchNorm a mean and a bias.
    """

    scale: Tensor
    shift: Tensor
    size: Tensor
    affine = True
    mixes = False
    kinked = False

    def value(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * self.scale + self.shift

    def interval(self, *boxes: Box) -> Box:
        (box,) = boxes
        one, other = self.value(box.low), self.value(box.high)
        size = box.size * self.scale.abs() + self.size
        found = outward(torch.minimum(one, other), torch.maximum(one, other), size, 8)
        ball = box.ball
        if ball is not None:
            error = ball.error * self.scale.abs() + rounding(12, size.dtype) * size
            norm = (ball.norm * self.scale.abs()) * (1 + rounding(4, size.dtype))
            ball = replace(ball, value=self.value(ball.value), error=error, norm=norm)
        return found.within(ball)

    def span(self, *spans: Span) -> Span:
        (span,) = spans
        points = None if span.points is None else self.value(span.points)
        return Span(self.value(span.centre), span.radius * self.scale.abs(), points)

    def backward(self, weight: Tensor, *boxes: Ends) -> Passed:
        return [weight * self.scale.unsqueeze(1)], total(weight * self.shift.unsqueeze(1))


@dataclass(frozen=True, eq=False)
class Gathered:
    """A linear function without negative coefficients of one or several inputs: pooling of means, reshaping, padding.

    function: of inputs B×…, for any B. shapes: of the inputs, without the batch. terms: how many values are added up
    in an output; 0 where values only change their places, each to at most one. repeats: or to several.
    """

    function: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]
    terms: int = 0
    repeats: bool = False
    affine = True
    kinked = False

    @property
    def mixes(self) -> bool:
        return self.terms > 0

    def value(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)

    def interval(self, *boxes: Box) -> Box:
        low, high = (self.function(*(getattr(box, end) for box in boxes)) for end in ("low", "high"))
        balls = [box.ball for box in boxes if box.ball is not None]
        together = len(balls) == len(boxes)
        ball = None
        if together:
            value = self.function(*(ball.value for ball in balls))
            norm = self.function(*(ball.norm for ball in balls))
            more = rounding(2 * self.terms + 4, low.dtype) if self.terms else 0.0
            error = self.function(*(b.error + more * (b.value.abs() + b.eps * b.norm) for b in balls))
            disjoint = len(balls) == 1 and balls[0].disjoint and not self.terms and not self.repeats
            ball = replace(balls[0], value=value, error=error, norm=norm * (1 + more), disjoint=disjoint)
        if not self.terms:
            return Box(low, high, ball)
        size = self.function(*(box.size for box in boxes))
        return outward(low, high, size, 2 * self.terms).within(ball)  # twice: here, and in the layer

    def span(self, *spans: Span) -> Span:
        centre, radius = (self.function(*(getattr(span, name) for span in spans)) for name in ("centre", "radius"))
        points = [span.points for span in spans if span.points is not None]
        return Span(centre, radius, self.function(*points) if points else None)

    def backward(self, weight: Tensor, *boxes: Ends) -> Passed:
        flat = weight.flatten(0, 1)
        zeros = [flat.new_zeros(len(flat), *shape) for shape in self.shapes]
        found = torch.func.vjp(self.function, *zeros)[1](flat)
        return [back.view(*weight.shape[:2], *back.shape[1:]) for back in found], nothing(weight)


@dataclass(frozen=True, eq=False)
class Added:
    """One input plus `factor` times another."""

    factor: float = 1.0
    affine = True
    mixes = True
    kinked = False

    def value(self, *inputs: Tensor) -> Tensor:
        return inputs[0] + self.factor * inputs[1]

    def interval(self, *boxes: Box) -> Box:
        one, other = boxes
        ends = sorted((other.low, other.high), key=lambda end: end is other.high, reverse=self.factor < 0)
        size = one.size + abs(self.factor) * other.size
        found = outward(one.low + self.factor * ends[0], one.high + self.factor * ends[1], size, 3)
        if one.ball is None or other.ball is None:
            return found
        norm = one.ball.norm + abs(self.factor) * other.ball.norm
        error = one.ball.error + abs(self.factor) * other.ball.error + rounding(8, size.dtype) * size
        value = self.value(one.ball.value, other.ball.value)
        return found.within(replace(one.ball, value=value, error=error, norm=norm, disjoint=False))

    def span(self, *spans: Span) -> Span:
        one, other = spans
        radius = one.radius + abs(self.factor) * other.radius
        if one.points is None or other.points is None:
            return Span(self.value(one.centre, other.centre), radius)
        return Span(self.value(one.centre, other.centre), radius, self.value(one.points, other.points))

    def backward(self, weight: Tensor, *boxes: Ends) -> Passed:
        return [weight, self.factor * weight], nothing(weight)


def convolution(
    weight: Tensor, bias: Tensor | None, inputs: Sequence[int], *,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int,
) -> Weighted:  # fmt: skip
    """A 2-D convolution (O×I/g×h×w) of inputs C×H×W."""
    shape = tuple(inputs)

    def transposed(back: Tensor, kernel: Tensor) -> Tensor:
        missing = [  # what rounding down the size of the output left out
            side - ((out - 1) * step - 2 * pad + apart * (width - 1) + 1)
            for side, out, step, pad, apart, width in zip(
                shape[1:], back.shape[2:], stride, padding, dilation, kernel.shape[2:], strict=True
            )
        ]
        return F.conv_transpose2d(back, kernel, None, stride, padding, missing, groups, dilation)

    def apply(x: Tensor, kernel: Tensor) -> Tensor:
        return F.conv2d(x, kernel, None, stride, padding, dilation, groups)

    return Weighted(weight, None if bias is None else bias[:, None, None], apply, transposed, shape)


def linear(weight: Tensor, bias: Tensor | None, inputs: Sequence[int]) -> Weighted:
    """A linear layer (O×I) on the last of the dimensions of its inputs."""
    return Weighted(weight, bias, F.linear, lambda back, matrix: back @ matrix, tuple(inputs))
