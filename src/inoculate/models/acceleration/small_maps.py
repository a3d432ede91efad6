"""Convolutions over maps smaller than their kernel, as matrix products.

The late layers of a ResNet see 2×2 and 1×1 maps when images are small. There a 3×3 kernel lies mostly over padding, and
the general routine for its gradient takes many times as long as the product (on two cores ResNet-18 at 32×32 trains
twice as fast with it without AVX-512, and nearly twice in bf16). Same function, same parameters, same gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.core.modes import frozen

Pair = tuple[int, int]
GROWTH = 2  # how much larger than its kernel a matrix may be


class SmallMapConv2d(nn.Conv2d):
    """`nn.Conv2d` that takes the matrix product wherever that is quicker; identical up to rounding.

    That is where its output is a single pixel, of which the matrix is a part of the kernel; and on any small map if
    the gradient of the kernel is wanted, for which it pays to make the matrix. Nothing is kept between two passes.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cpu or is_traced():
            return super().forward(x)
        x, dtype = autocast(x, self.weight)
        slide = ConvGeometry.of(self, x.shape) if x.dtype is dtype else None
        learns = torch.is_grad_enabled() and self.weight.requires_grad
        if slide is None or not slide.small or not (learns or slide.out == (1, 1)):
            return super().forward(x)
        y: Tensor = _Product.apply(slide.met(x), self.weight, slide)
        return y if self.bias is None else y + self.bias[:, None, None].to(y.dtype)


def use_small_map_convolutions(model: nn.Module) -> nn.Module:
    """Let every plain `nn.Conv2d` of `model` use the shortcut; parameters and names stay as they are."""
    for module in model.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = SmallMapConv2d
    return model


@contextmanager
def inference_context(model: nn.Module) -> Iterator[nn.Module]:
    """The model as `frozen` has it, with the shortcut for the time of a block: for many verdicts."""
    plain = [module for module in model.modules() if type(module) is nn.Conv2d]
    try:
        with frozen(use_small_map_convolutions(model)):
            yield model
    finally:
        for module in plain:
            module.__class__ = nn.Conv2d


def is_traced() -> bool:
    """Whether torch follows what is done with tensors in a way that shortcuts would be in: compiles, traces, maps."""
    traces = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return torch.compiler.is_compiling() or traces or torch._C._functorch.maybe_current_level() is not None


def autocast(x: Tensor, weight: Tensor) -> tuple[Tensor, torch.dtype]:
    """`x` as a convolution with this kernel takes it here, and the dtype in which it calculates."""
    takes = x.is_floating_point() and torch.float64 not in (x.dtype, weight.dtype)
    if not takes or not torch.is_autocast_enabled(x.device.type):
        return x, weight.dtype
    dtype = torch.get_autocast_dtype(x.device.type)
    return x.to(dtype), dtype


@dataclass(frozen=True)
class ConvGeometry:
    """How a kernel slides over a map of `size` to an output of `out`; each pair is rows and columns.

    A 1×1 kernel meets every `skip`-th position alone: its `size` is what it meets, its `stride` is 1.
    """

    kernel: Pair
    stride: Pair
    padding: Pair
    size: Pair
    out: Pair
    skip: Pair = (1, 1)

    @classmethod
    def of(cls, conv: nn.Conv2d, shape: torch.Size) -> ConvGeometry | None:
        """None for images (B×C×h×w) or kinds of convolution that only the general routine knows, or refuses."""
        simple = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        if not simple or isinstance(conv.padding, str) or len(shape) != 4 or not shape[0]:
            return None
        kernel, stride, padding, size = map(_pair, (conv.kernel_size, conv.stride, conv.padding, shape[2:]))
        out = _pair(
            (extent + 2 * pad - length) // step + 1
            for extent, pad, length, step in zip(size, padding, kernel, stride, strict=True)
        )
        if min(out) < 1:
            return None
        if kernel == (1, 1) and padding == (0, 0):
            return cls(kernel, (1, 1), padding, out, out, stride)
        return cls(kernel, stride, padding, size, out)

    @property
    def small(self) -> bool:
        """Whether a matrix from all that is met to all outputs is not much larger than the kernel."""
        return self.size[0] * self.size[1] * self.out[0] * self.out[1] <= GROWTH * self.kernel[0] * self.kernel[1]

    def met(self, x: Tensor) -> Tensor:
        """The positions of `x` that the kernel meets."""
        return x if self.skip == (1, 1) else x[:, :, :: self.skip[0], :: self.skip[1]]

    def windows(self) -> Iterator[tuple[Pair, tuple[slice, slice], tuple[slice, slice]]]:
        """Each output's position, where the kernel lies over the map then, and which part of the kernel that is."""
        for row in range(self.out[0]):
            for column in range(self.out[1]):
                sides = zip((row, column), self.stride, self.padding, self.kernel, self.size, strict=True)
                (over, part), (over_across, part_across) = (_overlap(*side) for side in sides)
                yield (row, column), (over, over_across), (part, part_across)

    def matrix(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The kernel (O×I×kh×kw) as a matrix: rows are output positions × O, columns are map positions × I."""
        wide = weight.permute(0, 2, 3, 1)
        if self.out == (1, 1):
            ((_, over, part),) = self.windows()
            if [s.stop - s.start for s in over] == list(self.size):  # over all of the map: of an fp32 kernel no copy
                return wide[:, part[0], part[1]].to(dtype).flatten(1)
        matrix = weight.new_zeros(*self.out, weight.shape[0], *self.size, weight.shape[1], dtype=dtype)
        for at, over, part in self.windows():
            matrix[at[0], at[1], :, over[0], over[1]] = wide[:, part[0], part[1]].to(dtype)
        return matrix.flatten(3).flatten(0, 2)


def rows(t: Tensor) -> Tensor:
    """B×C×h×w as B×(h·w·C): no copy for channels-last tensors."""
    return t.permute(0, 2, 3, 1).flatten(1)


def maps(rows: Tensor, size: Pair) -> Tensor:
    """The inverse of `rows` for maps of this height and width: channels-last."""
    return rows.view(len(rows), *size, -1).permute(0, 3, 1, 2)


class _Product(torch.autograd.Function):
    """x (B×I×h×w) through the matrix of a kernel (O×I×kh×kw).

    Written out because autograd's own gradient of the slices of the kernel costs more than the product itself.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, slide: ConvGeometry) -> Tensor:
        ctx.slide = slide
        matrix = slide.matrix(weight, x.dtype)
        ctx.save_for_backward(x, weight, matrix)
        return maps(rows(x) @ matrix.T, slide.out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x, weight, matrix), slide = ctx.saved_tensors, ctx.slide
        g = rows(grads[0])
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            if torch.is_grad_enabled():  # for a gradient of this gradient
                matrix = slide.matrix(weight, x.dtype)
            with without_autocast(g):
                grad_x = maps(g @ matrix, slide.size)
        if ctx.needs_input_grad[1]:
            with without_autocast(g):
                each = (g.T @ rows(x)).view(*slide.out, weight.shape[0], *slide.size, weight.shape[1])
            grad_weight = torch.zeros_like(weight)
            wide = grad_weight.permute(0, 2, 3, 1)
            for at, over, part in slide.windows():
                wide[:, part[0], part[1]].add_(each[at[0], at[1], :, over[0], over[1]])
        return grad_x, grad_weight, None


def without_autocast(gradient: Tensor) -> torch.autocast:
    """Inside, nothing is cast: a gradient has the dtype of its forward pass, whatever surrounds the backward pass."""
    return torch.autocast(gradient.device.type, enabled=False)


def _pair(values: Any) -> Pair:
    first, second = values
    return int(first), int(second)


def _overlap(index: int, stride: int, padding: int, length: int, size: int) -> tuple[slice, slice]:
    """Along one side: where the kernel of output `index` lies over the map, and which part of the kernel that is."""
    start = index * stride - padding
    first, last = max(start, 0), max(min(start + length, size), max(start, 0))
    return slice(first, last), slice(first - start, last - start)
