"""Convolutions with fixed weights, which keep what they prepare from their kernel for all later passes.

Crafting calls one network hundreds of times with the same weights, so that a kernel need not be cast again for each
call. On a CPU, two kinds of convolution also have faster implementations than the general routine: a kernel larger than
the map under it is a small matrix (the late layers of a ResNet, when images are small), and the gradient in an image of
few channels is one convolution without stride (the first layer). ResNet-18 at 32×32 computes the gradient in 128 images
in three quarters of the time, in 8 images in three fifths. Same function up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.models.acceleration.geometry import ConvGeometry, to_maps, to_rows
from inoculate.models.acceleration.input_gradient import StridedConv
from inoculate.models.acceleration.small_maps import SmallMapConv2d
from inoculate.models.acceleration.torch_state import cast_input, is_traced

Implementation = Callable[[Tensor], Tensor]
PIXELS = 4  # output positions up to which a 1×1 kernel is faster as a matrix
IMAGE_CHANNELS = 4  # up to so many channels fill at most a quarter of a vector register


class CachedConv2d(nn.Conv2d):
    """`nn.Conv2d` for gradients in images alone: it keeps an implementation for each dtype, format and map size.

    They are prepared anew once the weights have been written in place or replaced. A write that autograd does not count
    (`.data`, a fused optimiser) is not noticed: this is for copies that have been compared with their original.
    """

    kept: tuple[Tensor | None, ...]  # the weights prepared from: kept alive, so that their memory is not used again
    prepared_from: tuple[int, ...]
    kernels: dict[tuple[torch.dtype, torch.memory_format], tuple[Tensor, Tensor | None]]
    implementations: dict[tuple[torch.dtype, torch.memory_format, int, int], Implementation]

    def forward(self, x: Tensor) -> Tensor:
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters(recurse=False))
        if x.ndim != 4 or not len(x) or x.device.type not in ("cpu", "cuda") or learns or is_traced():
            return super().forward(x)
        x, dtype = cast_input(x, self.weight)
        if x.dtype is not dtype:
            return super().forward(x)
        now = *_version(self.weight), *(() if self.bias is None else _version(self.bias))
        if self.prepared_from != now:
            self.clear_cache()
            self.prepared_from = now
            self.kept = self.weight.detach(), None if self.bias is None else self.bias.detach()
        memory_format = _memory_format(x, self.weight)
        key = dtype, memory_format, x.shape[2], x.shape[3]
        if key not in self.implementations:
            with torch.inference_mode(False), torch.no_grad():
                self.implementations[key] = self._implementation(dtype, memory_format, x.shape)
        return self.implementations[key](x)

    def clear_cache(self) -> None:
        """Keep nothing prepared."""
        self.kept, self.prepared_from, self.kernels, self.implementations = (), (), {}, {}

    def __getstate__(self) -> dict[str, Any]:
        """A copy prepares its own."""
        return {**self.__dict__, "kept": (), "prepared_from": (), "kernels": {}, "implementations": {}}

    def _kernel(self, dtype: torch.dtype, memory_format: torch.memory_format) -> tuple[Tensor, Tensor | None]:
        if (dtype, memory_format) not in self.kernels:
            # In the format of the images, to which each pass would otherwise convert it.
            weight = self.weight.detach().to(dtype, memory_format=memory_format)
            self.kernels[dtype, memory_format] = weight, None if self.bias is None else self.bias.detach().to(dtype)
        return self.kernels[dtype, memory_format]

    def _implementation(
        self, dtype: torch.dtype, memory_format: torch.memory_format, shape: torch.Size
    ) -> Implementation:
        weight, bias = self._kernel(dtype, memory_format)
        general = partial(self._conv_forward, weight=weight, bias=bias)
        geometry = ConvGeometry.of(self, shape) if weight.is_cpu else None
        if geometry is None:
            return general
        if geometry.kernel == (1, 1) and geometry.padding == (0, 0) and geometry.out[0] * geometry.out[1] <= PIXELS:
            return PixelwiseConv(weight.flatten(1), bias, geometry, memory_format)
        if geometry.is_small:
            repeated = None if bias is None else bias.repeat(geometry.out[0] * geometry.out[1])
            return WholeMapConv(geometry.matrix(weight, dtype), repeated, geometry, memory_format)
        if geometry.stride[0] == geometry.stride[1] > 1 and self.in_channels <= IMAGE_CHANNELS:
            return StridedConv(general, weight, geometry)
        return general


def cache_convolutions(model: nn.Module) -> nn.Module:
    """Make every plain convolution of `model` a `CachedConv2d`; parameters and names stay as they are."""
    for module in model.modules():
        # one whose weights a hook computes at each call (such as a weight norm) stays as it is
        if type(module) in (nn.Conv2d, SmallMapConv2d) and not module._forward_pre_hooks:
            module.__class__ = CachedConv2d
            module.clear_cache()  # type: ignore[operator]
    return model


class PixelwiseConv:
    """A 1×1 kernel (matrix O×I) applied to each pixel that it depends on."""

    def __init__(
        self, matrix: Tensor, bias: Tensor | None, geometry: ConvGeometry, memory_format: torch.memory_format
    ) -> None:
        self.matrix, self.bias, self.geometry, self.memory_format = matrix, bias, geometry, memory_format

    def __call__(self, x: Tensor) -> Tensor:
        pixels = self.geometry.sampled(x).permute(0, 2, 3, 1).flatten(0, 2)
        rows = F.linear(pixels, self.matrix, self.bias).view(len(x), -1)
        return to_maps(rows, self.geometry.out).contiguous(memory_format=self.memory_format)


class WholeMapConv:
    """All of a map (B×I×h×w) through the kernel's matrix."""

    def __init__(
        self, matrix: Tensor, bias: Tensor | None, geometry: ConvGeometry, memory_format: torch.memory_format
    ) -> None:
        self.matrix, self.bias, self.geometry, self.memory_format = matrix, bias, geometry, memory_format

    def __call__(self, x: Tensor) -> Tensor:
        rows = F.linear(to_rows(x), self.matrix, self.bias)
        return to_maps(rows, self.geometry.out).contiguous(memory_format=self.memory_format)


def _version(t: Tensor) -> tuple[int, int]:
    """What changes when a tensor's values do: its address, and how often it was written."""
    return t.data_ptr(), 0 if t.is_inference() else t._version


def _memory_format(x: Tensor, weight: Tensor) -> torch.memory_format:
    """The format of a convolution's result: channels-last if its images or its kernel are so."""
    last = x.stride(1) == 1 or (weight.stride(1) == 1 and weight.stride(3) != 1)
    return torch.channels_last if last else torch.contiguous_format
