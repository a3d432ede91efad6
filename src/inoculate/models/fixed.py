"""Convolutions whose weights stay as they are for many passes: what can be prepared from a kernel is prepared once.

Crafting and judging call one network hundreds of times. Between two calls nothing of a kernel needs to be cast again.
And on a processor two kinds of convolution have better forms than the general routine: a kernel larger than the map
that it slides over is a small matrix (the late layers of a ResNet, when images are small), and the gradient in an
image of few channels is one convolution without stride (the first layer). ResNet-18 at 32×32 gets the gradient in
128 images in three quarters of the time, in 8 images in three fifths. Same function up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.models.pointwise import PointConv2d
from inoculate.modes import frozen

Form = Callable[[Tensor], Tensor]
PIXELS = 4  # output positions up to which a 1×1 kernel is quicker as a matrix
GROWTH = 2  # how much larger than its kernel a matrix may be
IMAGE_CHANNELS = 4  # so few fill a quarter of a vector register


class FixedConv2d(nn.Conv2d):
    """`nn.Conv2d` for gradients in images alone: it keeps a form of its kernel for each dtype and map size it meets.

    The forms are made anew once the weights have been written in place or replaced (a fused optimiser's step is not
    noticed: this is for networks that are not being trained).
    """

    forms: dict[tuple[torch.dtype, torch.memory_format, int, int], Form]
    made_of: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:
        dtype = self.weight.dtype
        if torch.is_autocast_enabled(x.device.type) and dtype is not torch.float64:
            dtype = torch.get_autocast_dtype(x.device.type)
            x = x.to(dtype)
        if x.ndim != 4 or not len(x) or x.dtype is not dtype or torch.compiler.is_compiling():
            return super().forward(x)
        now = *_state(self.weight), *(() if self.bias is None else _state(self.bias))
        if self.made_of != now:
            self.forms, self.made_of = {}, now
        key = dtype, _layout(x, self.weight), x.shape[2], x.shape[3]
        if key not in self.forms:
            with torch.inference_mode(False), torch.no_grad():
                self.forms[key] = self._form(*key)
        return self.forms[key](x)

    def _form(self, dtype: torch.dtype, layout: torch.memory_format, height: int, width: int) -> Form:
        # Laid out as the images are: each pass would have to do it else.
        weight = self.weight.detach().to(dtype, memory_format=layout)
        bias = None if self.bias is None else self.bias.detach().to(dtype)
        convolution = partial(self._conv_forward, weight=weight, bias=bias)
        simple = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        if weight.device.type != "cpu" or not simple or isinstance(self.padding, str):
            return convolution
        kernel, stride, padding = (
            self.kernel_size,
            (self.stride[0], self.stride[1]),
            (int(self.padding[0]), int(self.padding[1])),
        )
        rows, columns = (
            (size + 2 * pad - length) // step + 1
            for size, pad, length, step in zip((height, width), padding, kernel, stride, strict=True)
        )
        if rows < 1 or columns < 1:
            return convolution  # which says that the map is too small
        if kernel == (1, 1) and padding == (0, 0) and rows * columns <= PIXELS:
            return partial(_pixelwise, weight=weight.flatten(1), bias=bias, stride=stride, layout=layout)
        if height * width * rows * columns <= GROWTH * kernel[0] * kernel[1]:
            matrix = _matrix(weight, (height, width), (rows, columns), stride, padding)
            whole = None if bias is None else bias.repeat(rows * columns)
            return partial(_product, matrix=matrix, bias=whole, out=(rows, columns), layout=layout)
        if stride[0] == stride[1] > 1 and self.in_channels <= IMAGE_CHANNELS:
            back = _Transposed(weight, (height, width), (rows, columns), stride[0], padding)
            return lambda x: _WithGradient.apply(x, convolution, back)
        return convolution


@contextmanager
def fixed(model: nn.Module) -> Iterator[nn.Module]:
    """The model as `frozen` has it, with these convolutions in place of its own for the time of the block."""
    before = [(module, type(module)) for module in model.modules() if _plain(module)]
    try:
        with frozen(model):
            yield with_fixed_convolutions(model)
    finally:
        for module, kind in before:
            module.__class__ = kind
            del module.forms, module.made_of


def with_fixed_convolutions(model: nn.Module) -> nn.Module:
    """Let every plain convolution of `model` use its forms; parameters and names stay as they are."""
    for module in model.modules():
        if _plain(module):
            module.__class__ = FixedConv2d
            module.forms, module.made_of = {}, ()  # type: ignore[assignment]
    return model


def _plain(module: nn.Module) -> bool:
    """Whether this is a convolution whose weights nothing makes at each call (such as a weight norm's hook)."""
    return type(module) in (nn.Conv2d, PointConv2d) and not module._forward_pre_hooks


def _state(t: Tensor) -> tuple[int, int]:
    """What changes when a tensor's values do: where they lie, and how often they were written."""
    return t.data_ptr(), 0 if t.is_inference() else t._version


def _layout(x: Tensor, weight: Tensor) -> torch.memory_format:
    """How a convolution lays out its result: channels last if its images or its kernel are so."""
    last = x.stride(1) == 1 or (weight.stride(1) == 1 and weight.stride(3) != 1)
    return torch.channels_last if last else torch.contiguous_format


def _pixelwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], layout: torch.memory_format
) -> Tensor:
    """A 1×1 kernel (O×I) on each pixel that it meets."""
    met = x[:, :, :: stride[0], :: stride[1]].permute(0, 2, 3, 1)
    y = F.linear(met.flatten(0, 2), weight, bias)
    return y.view(*met.shape[:3], -1).permute(0, 3, 1, 2).contiguous(memory_format=layout)


def _product(
    x: Tensor, matrix: Tensor, bias: Tensor | None, out: tuple[int, int], layout: torch.memory_format
) -> Tensor:
    """All of a map (B×C×h×w) times `matrix` → B×O×`out`."""
    flat = x.permute(0, 2, 3, 1).flatten(1)
    y = flat @ matrix if bias is None else torch.addmm(bias, flat, matrix)
    return y.view(len(x), *out, -1).permute(0, 3, 1, 2).contiguous(memory_format=layout)


def _matrix(
    weight: Tensor,
    size: tuple[int, int],
    out: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """The kernel (O×I×kh×kw) as a matrix from all positions and channels of a map to all of its output."""
    wide = weight.permute(2, 3, 1, 0)
    matrix = weight.new_zeros(*size, weight.shape[1], *out, weight.shape[0])
    for row in range(out[0]):
        for column in range(out[1]):
            over, part = zip(
                *(
                    _overlap(position * step - pad, length, extent)
                    for position, step, pad, length, extent in zip(
                        (row, column), stride, padding, weight.shape[2:], size, strict=True
                    )
                ),
                strict=True,
            )
            matrix[over[0], over[1], :, row, column] = wide[part[0], part[1]]
    return matrix.flatten(3).flatten(0, 2)


def _overlap(start: int, length: int, size: int) -> tuple[slice, slice]:
    """Where a kernel of `length` that begins at `start` lies over a map of `size`, and which part of it that is."""
    first, last = max(start, 0), max(min(start + length, size), max(start, 0))
    return slice(first, last), slice(first - start, last - start)


class _Transposed:
    """The gradient of a convolution in its images (B×C×`size`), from the gradient in its output (B×O×`out`).

    Images are cut into cells of stride×stride pixels. Each cell depends on the same few outputs around it, by a kernel
    of its own for every pixel of the cell and every channel: one convolution without stride from O channels to all of
    these, whose output is then laid out as pixels.
    """

    def __init__(
        self, weight: Tensor, size: tuple[int, int], out: tuple[int, int], stride: int, padding: tuple[int, int]
    ) -> None:
        self.size, self.stride = size, stride
        ahead = [-((stride - 1 + pad) // stride) for pad in padding]  # the furthest output that a cell depends on
        behind = [(length - 1 - pad) // stride for length, pad in zip(weight.shape[2:], padding, strict=True)]
        taps = [last - first + 1 for first, last in zip(ahead, behind, strict=True)]
        kernel = weight.new_zeros(weight.shape[1], stride, stride, weight.shape[0], *taps)
        for y, x, down, across in torch.cartesian_prod(
            *(torch.arange(count) for count in (stride, stride, taps[0], taps[1]))
        ).tolist():
            at = [
                stride * (last - tap) + place + pad
                for last, tap, place, pad in zip(behind, (down, across), (y, x), padding, strict=True)
            ]
            if all(0 <= index < length for index, length in zip(at, weight.shape[2:], strict=True)):
                kernel[:, y, x, :, down, across] = weight[:, :, at[0], at[1]].T
        self.kernel = kernel.flatten(0, 2).contiguous(memory_format=torch.channels_last)
        cells = [-(-extent // stride) for extent in size]
        margins = [
            (last, cell + tap - 1 - last - count)
            for last, cell, tap, count in zip(behind, cells, taps, out, strict=True)
        ]
        self.margins = (*margins[1], *margins[0])  # the last dimension first

    def __call__(self, gradient: Tensor) -> Tensor:
        cells = F.conv2d(F.pad(gradient, self.margins), self.kernel)
        return F.pixel_shuffle(cells, self.stride)[:, :, : self.size[0], : self.size[1]]


class _WithGradient(torch.autograd.Function):
    """A linear function of x with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Form, gradient: Form) -> Tensor:
        ctx.gradient = gradient
        return function(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient(grads[0]), None, None
