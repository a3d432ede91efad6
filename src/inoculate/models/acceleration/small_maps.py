"""Convolutions over maps smaller than their kernel, as matrix products.

The late layers of a ResNet see 2×2 and 1×1 maps when images are small. There a 3×3 kernel lies mostly over padding, and
the general routine for its gradient takes many times as long as the product (on two cores ResNet-18 at 32×32 trains
twice as fast with it without AVX-512, and nearly twice in bf16). Same function, same parameters, same gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.core.modes import frozen
from inoculate.models.acceleration.geometry import ConvGeometry, to_maps, to_rows
from inoculate.models.acceleration.torch_state import cast_input, is_traced, without_autocast


class SmallMapConv2d(nn.Conv2d):
    """`nn.Conv2d` that uses the matrix product wherever that is faster; identical up to rounding.

    That is where its output is a single pixel, because the matrix is then a part of the kernel; and on any small map if
    the gradient of the kernel is needed, for which building the matrix pays. Nothing is kept between two passes.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cpu or is_traced():
            return super().forward(x)
        x, dtype = cast_input(x, self.weight)
        geometry = ConvGeometry.of(self, x.shape) if x.dtype is dtype else None
        learns = torch.is_grad_enabled() and self.weight.requires_grad
        if geometry is None or not geometry.is_small or not (learns or geometry.out == (1, 1)):
            return super().forward(x)
        # The maps are a view made outside of the function, so that the next layer may work in place.
        y = to_maps(MatrixConv.apply(geometry.sampled(x), self.weight, geometry), geometry.out)
        return y if self.bias is None else y + self.bias[:, None, None].to(y.dtype)


def use_small_map_convolutions(model: nn.Module) -> nn.Module:
    """Make every plain `nn.Conv2d` of `model` a `SmallMapConv2d`; parameters and names stay as they are."""
    for module in model.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = SmallMapConv2d
    return model


@contextmanager
def inference_context(model: nn.Module) -> Iterator[nn.Module]:
    """The model as in `frozen`, with small-map convolutions for the time of a block: for evaluating many batches."""
    plain = [module for module in model.modules() if type(module) is nn.Conv2d]
    try:
        with frozen(use_small_map_convolutions(model)):
            yield model
    finally:
        for module in plain:
            module.__class__ = nn.Conv2d


class MatrixConv(torch.autograd.Function):
    """x (B×I×h×w) through the matrix of a kernel (O×I×kh×kw): rows B×(h·w·O) of the output's maps.

    It has a gradient of its own because autograd's gradient of the slices of the kernel costs more than the product.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)  # a layer without a gradient is no layer whose gradient is 0
        matrix = geometry.matrix(weight, x.dtype)
        ctx.save_for_backward(x, weight, matrix)
        return to_rows(x) @ matrix.T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        if grads[0] is None:
            return None, None, None
        (x, weight, matrix), geometry = ctx.saved_tensors, ctx.geometry
        g = grads[0]
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            if torch.is_grad_enabled():  # for a gradient of this gradient
                matrix = geometry.matrix(weight, x.dtype)
            with without_autocast(g):
                grad_x = to_maps(g @ matrix, geometry.size)
        if ctx.needs_input_grad[1]:
            with without_autocast(g):
                each = (g.T @ to_rows(x)).view(*geometry.out, weight.shape[0], *geometry.size, weight.shape[1])
            grad_weight = torch.zeros_like(weight)
            wide = grad_weight.permute(0, 2, 3, 1)
            for at, over, part in geometry.windows():
                wide[:, part[0], part[1]].add_(each[at[0], at[1], :, over[0], over[1]])
        return grad_x, grad_weight, None
