"""Convolutions whose weights stay as they are for many passes: what can be prepared from a kernel is prepared once.

Crafting calls one network hundreds of times. Between two calls nothing of a kernel needs to be cast again. And on a
processor two kinds of convolution have better forms than the general routine: a kernel larger than the map that it
slides over is a small matrix (the late layers of a ResNet, when images are small), and the gradient in an image of few
channels is one convolution without stride (the first layer). ResNet-18 at 32×32 gets the gradient in 128 images in
three quarters of the time, in 8 images in three fifths. Same function up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.models.acceleration.small_maps import (
    ConvGeometry,
    SmallMapConv2d,
    autocast,
    is_traced,
    maps,
    rows,
    without_autocast,
)

Form = Callable[[Tensor], Tensor]
PIXELS = 4  # output positions up to which a 1×1 kernel is quicker as a matrix
IMAGE_CHANNELS = 4  # so few fill a quarter of a vector register


class CachedConv2d(nn.Conv2d):
    """`nn.Conv2d` for gradients in images alone: it keeps its kernel in the form that each dtype and map size needs.

    The forms are made anew once the weights have been written in place or replaced. What writes past autograd (`.data`,
    a fused optimiser) is not noticed: this is for copies of ours, after `try_forms` has compared them.
    """

    kept: tuple[Tensor | None, ...]  # the weights of which the forms were made: alive, so that their place stays taken
    made_of: tuple[int, ...]
    kernels: dict[tuple[torch.dtype, torch.memory_format], tuple[Tensor, Tensor | None]]
    forms: dict[tuple[torch.dtype, torch.memory_format, int, int], Form]

    def forward(self, x: Tensor) -> Tensor:
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters(recurse=False))
        if x.ndim != 4 or not len(x) or x.device.type not in ("cpu", "cuda") or learns or is_traced():
            return super().forward(x)
        x, dtype = autocast(x, self.weight)
        if x.dtype is not dtype:
            return super().forward(x)
        now = *_state(self.weight), *(() if self.bias is None else _state(self.bias))
        if self.made_of != now:
            self.forget()
            self.made_of = now
            self.kept = self.weight.detach(), None if self.bias is None else self.bias.detach()
        layout = _layout(x, self.weight)
        key = dtype, layout, x.shape[2], x.shape[3]
        if key not in self.forms:
            with torch.inference_mode(False), torch.no_grad():
                self.forms[key] = self._form(dtype, layout, x.shape)
        return self.forms[key](x)

    def forget(self) -> None:
        """Keep no form."""
        self.kept, self.made_of, self.kernels, self.forms = (), (), {}, {}

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own forms."""
        return {**self.__dict__, "kept": (), "made_of": (), "kernels": {}, "forms": {}}

    def _kernel(self, dtype: torch.dtype, layout: torch.memory_format) -> tuple[Tensor, Tensor | None]:
        if (dtype, layout) not in self.kernels:
            # Laid out as the images are: each pass would have to do it else.
            weight = self.weight.detach().to(dtype, memory_format=layout)
            self.kernels[dtype, layout] = weight, None if self.bias is None else self.bias.detach().to(dtype)
        return self.kernels[dtype, layout]

    def _form(self, dtype: torch.dtype, layout: torch.memory_format, shape: torch.Size) -> Form:
        weight, bias = self._kernel(dtype, layout)
        convolution = partial(self._conv_forward, weight=weight, bias=bias)
        slide = ConvGeometry.of(self, shape) if weight.is_cpu else None
        if slide is None:
            return convolution
        if slide.kernel == (1, 1) and slide.padding == (0, 0) and slide.out[0] * slide.out[1] <= PIXELS:
            return partial(_pixelwise, slide=slide, weight=weight.flatten(1), bias=bias, layout=layout)
        if slide.small:
            whole = None if bias is None else bias.repeat(slide.out[0] * slide.out[1])
            return partial(_product, slide=slide, matrix=slide.matrix(weight, dtype), bias=whole, layout=layout)
        if slide.stride[0] == slide.stride[1] > 1 and self.in_channels <= IMAGE_CHANNELS:
            back = _Transposed(weight, slide)
            return lambda x: _WithGradient.apply(x, convolution, back)
        return convolution


def cache_convolutions(model: nn.Module) -> nn.Module:
    """Let every plain convolution of `model` use its forms; parameters and names stay as they are."""
    for module in model.modules():
        # one whose weights a hook makes at each call (such as a weight norm) stays as it is
        if type(module) in (nn.Conv2d, SmallMapConv2d) and not module._forward_pre_hooks:
            module.__class__ = CachedConv2d
            module.forget()  # type: ignore[operator]
    return model


def try_forms(model: nn.Module, x: Tensor) -> None:
    """Let `model` use its forms.

    It stays as it is if its outputs for some images `x`, seen twice, show that its weights change as it runs, or if it
    takes no such number of images.
    """
    kinds = [(module, type(module)) for module in model.modules()]
    try:
        expected = _twice(model, x)
        got = _twice(cache_convolutions(model), x)
        same = torch.allclose(expected, got, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    except (RuntimeError, ValueError, TypeError, AttributeError):  # the attack will say what is wrong with it
        same = False
    if not same:
        for module, kind in kinds:
            module.__class__ = kind


def _twice(model: nn.Module, x: Tensor) -> Tensor:
    """The outputs of two passes over the same images, with the same random numbers whenever it is called."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return torch.cat([model(x), model(x)])


def _state(t: Tensor) -> tuple[int, int]:
    """What changes when a tensor's values do: where they lie, and how often they were written."""
    return t.data_ptr(), 0 if t.is_inference() else t._version


def _layout(x: Tensor, weight: Tensor) -> torch.memory_format:
    """How a convolution lays out its result: channels last if its images or its kernel are so."""
    last = x.stride(1) == 1 or (weight.stride(1) == 1 and weight.stride(3) != 1)
    return torch.channels_last if last else torch.contiguous_format


def _pixelwise(
    x: Tensor, slide: ConvGeometry, weight: Tensor, bias: Tensor | None, layout: torch.memory_format
) -> Tensor:
    """A 1×1 kernel (O×I) on each pixel that it meets."""
    pixels = slide.met(x).permute(0, 2, 3, 1).flatten(0, 2)
    return maps(F.linear(pixels, weight, bias).view(len(x), -1), slide.out).contiguous(memory_format=layout)


def _product(
    x: Tensor, slide: ConvGeometry, matrix: Tensor, bias: Tensor | None, layout: torch.memory_format
) -> Tensor:
    """All of a map (B×I×h×w) through the kernel's matrix."""
    return maps(F.linear(rows(x), matrix, bias), slide.out).contiguous(memory_format=layout)


class _Transposed:
    """The gradient of a convolution in its images, from the gradient in its output (B×O×h×w).

    Images are cut into cells of stride×stride pixels. Each cell depends on the same few outputs around it, by a kernel
    of its own for every pixel of the cell and every channel: one convolution without stride from O channels to all of
    these, whose output is then laid out as pixels.
    """

    def __init__(self, weight: Tensor, slide: ConvGeometry) -> None:
        self.size, self.stride = slide.size, slide.stride[0]
        sides = list(zip(slide.kernel, slide.padding, slide.size, slide.out, strict=True))
        first = [-((self.stride - 1 + pad) // self.stride) for _, pad, _, _ in sides]
        last = [(length - 1 - pad) // self.stride for length, pad, _, _ in sides]  # how far back its outputs lie
        taps = [end - begin + 1 for begin, end in zip(first, last, strict=True)]
        kernel = weight.new_zeros(weight.shape[1], self.stride, self.stride, weight.shape[0], *taps)
        places = [self._places(*each) for each in zip(last, taps, slide.padding, slide.kernel, strict=True)]
        for (y, down, row), (x, across, column) in product(*places):
            kernel[:, y, x, :, down, across] = weight[:, :, row, column].T
        self.kernel = kernel.flatten(0, 2).contiguous(memory_format=torch.channels_last)
        margins = [
            (end, -(-extent // self.stride) + tap - 1 - end - count)
            for end, tap, (_, _, extent, count) in zip(last, taps, sides, strict=True)
        ]
        self.margins = (*margins[1], *margins[0])  # the last side first

    def _places(self, last: int, taps: int, padding: int, length: int) -> list[tuple[int, int, int]]:
        """Along one side: a pixel's place in its cell, the output that it looks at, and the kernel's row for both."""
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


class _WithGradient(torch.autograd.Function):
    """A linear function of x with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Form, gradient: Form) -> Tensor:
        ctx.gradient = gradient
        return function(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient(grads[0]), None, None
