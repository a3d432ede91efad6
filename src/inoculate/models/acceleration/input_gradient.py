"""The gradient of a strided convolution in images of few channels: one product or convolution, and an arrangement."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inoculate.models.acceleration.geometry import ConvGeometry
from inoculate.models.acceleration.torch_state import without_autocast


class FoldedInputGradient:
    """The gradient of a convolution in its images, from the gradient in its output (B×O×h×w).

    The kernel's matrix turns each output's gradient into that of a patch; overlapping patches are added up.
    """

    def __init__(self, weight: Tensor, geometry: ConvGeometry) -> None:
        self.matrix, self.geometry = weight.flatten(1).T.contiguous(), geometry

    def __call__(self, gradient: Tensor) -> Tensor:
        its = self.geometry
        with without_autocast(gradient):
            patches = self.matrix @ gradient.flatten(2)
            return F.fold(patches, its.size, its.kernel, padding=its.padding, stride=its.stride)


class StridedInputGradient:
    """The same for half precision, which `fold` would add up.

    Images are cut into cells of stride×stride pixels. Each cell depends on the same few outputs around it, by a kernel
    of its own for every pixel of the cell and every channel: one convolution without stride from O channels to all of
    these, whose output is then arranged as pixels.
    """

    def __init__(self, weight: Tensor, geometry: ConvGeometry) -> None:
        self.size, self.stride = geometry.size, geometry.stride[0]
        sides = list(zip(geometry.kernel, geometry.padding, geometry.size, geometry.out, strict=True))
        first = [-((self.stride - 1 + pad) // self.stride) for _, pad, _, _ in sides]
        last = [(length - 1 - pad) // self.stride for length, pad, _, _ in sides]  # how far back its outputs lie
        taps = [end - begin + 1 for begin, end in zip(first, last, strict=True)]
        kernel = weight.new_zeros(weight.shape[1], self.stride, self.stride, weight.shape[0], *taps)
        places = [self._places(*each) for each in zip(last, taps, geometry.padding, geometry.kernel, strict=True)]
        for (y, down, row), (x, across, column) in product(*places):
            kernel[:, y, x, :, down, across] = weight[:, :, row, column].T
        self.kernel = kernel.flatten(0, 2).contiguous(memory_format=torch.channels_last)
        margins = [
            (end, -(-extent // self.stride) + tap - 1 - end - count)
            for end, tap, (_, _, extent, count) in zip(last, taps, sides, strict=True)
        ]
        self.margins = (*margins[1], *margins[0])  # the last side first

    def _places(self, last: int, taps: int, padding: int, length: int) -> list[tuple[int, int, int]]:
        """Along one side: a pixel's place in its cell, an output that depends on it, and the kernel's row for both."""
        every = (
            (place, tap, self.stride * (last - tap) + place + padding)
            for place in range(self.stride)
            for tap in range(taps)
        )
        return [each for each in every if 0 <= each[2] < length]

    def __call__(self, gradient: Tensor) -> Tensor:
        with without_autocast(gradient):
            cells = F.conv2d(F.pad(gradient, self.margins), self.kernel)
        return F.pixel_shuffle(cells, self.stride)[:, :, : self.size[0], : self.size[1]]


class StridedConv:
    """A convolution (`function`) of images whose gradient in them is computed by one of these."""

    def __init__(self, function: Callable[[Tensor], Tensor], weight: Tensor, geometry: ConvGeometry) -> None:
        kind = FoldedInputGradient if weight.dtype.itemsize >= 4 else StridedInputGradient
        self.function, self.gradient = function, kind(weight, geometry)

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = _WithInputGradient.apply(x, self.function, self.gradient)
        return y


class _WithInputGradient(torch.autograd.Function):
    """A linear function of x whose gradient in x is computed by another function."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor], gradient: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.gradient = gradient
        ctx.set_materialize_grads(False)  # a layer without a gradient is no layer whose gradient is 0
        return function(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None]:
        return None if grads[0] is None else ctx.gradient(grads[0]), None, None
