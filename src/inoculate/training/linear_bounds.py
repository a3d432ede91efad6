"""Backward linear bounds (CROWN) of a chain of layers that a gradient passes through, for CROWN-IBP.

Zhang et al. (2018), "Efficient neural network robustness certification with general activation functions"; the bounds
in front of each ReLU are those of IBP, and its lower line is the steeper side's (adaptive), as in Zhang et al. (2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.training.interval import Box, as_affine, margins, through


class Passed(NamedTuple):
    """A layer, the boxes in front of it and behind it, and what BatchNorm did: its scale and shift."""

    layer: nn.Module
    before: Box
    after: Box
    affine: tuple[Tensor, Tensor] | None


def crown_margins(hidden: Sequence[nn.Module], last: nn.Linear, box: Box, y: Tensor) -> tuple[Tensor, Tensor, Box]:
    """Lower bounds of true logit minus each logit (B×K): those of IBP, those of CROWN; and the box before `last`.

    CROWN ends at the last layer of the chain that it has no lines for (pooling, activations other than ReLU), with the
    intervals behind it.
    """
    passed, reached = [], box
    for layer in hidden:
        affine, before = as_affine(layer, reached), reached
        reached = through([layer], before) if affine is None else before.scaled(*affine)
        passed.append(Passed(layer, before, reached, affine))
    weight = (last.weight[:, None] - last.weight[None])[y]  # B×K×F
    offset = torch.zeros_like(weight[..., 0])
    if last.bias is not None:
        offset = (last.bias[:, None] - last.bias[None])[y]
    start = box
    for step in reversed(passed):
        found = _backward(step, weight)
        if found is None:
            start = step.after
            break
        weight, offset = found[0], offset + found[1]
    flat = weight.flatten(2)
    low = torch.einsum("bkf,bf->bk", flat, start.centre.flatten(1))
    low = low - torch.einsum("bkf,bf->bk", flat.abs(), start.radius.flatten(1))
    return margins(last, reached, y), low + offset, reached


def _backward(step: Passed, weight: Tensor) -> tuple[Tensor, Tensor | float] | None:
    """Coefficients (B×K×…) of a lower bound on the inputs of a layer, and what is added to it (B×K)."""
    layer = step.layer
    if step.affine is not None:
        scale, shift = (each.unsqueeze(1) for each in step.affine)
        return weight * scale, (weight * shift).flatten(2).sum(2)
    if isinstance(layer, nn.Linear):
        return weight @ layer.weight, 0.0 if layer.bias is None else weight @ layer.bias
    if isinstance(layer, nn.Conv2d) and not isinstance(layer.padding, str):
        return _conv_backward(layer, layer.padding, weight, step.before.centre.shape)
    if isinstance(layer, nn.Flatten | nn.Identity | nn.Dropout):
        return weight.reshape(*weight.shape[:2], *step.before.centre.shape[1:]), 0.0
    if isinstance(layer, nn.ReLU):
        return _relu_backward(step.before, weight)
    return None


def _conv_backward(
    layer: nn.Conv2d, padding: Sequence[int], weight: Tensor, inputs: Sequence[int]
) -> tuple[Tensor, Tensor | float]:
    offset = 0.0 if layer.bias is None else torch.einsum("bkohw,o->bk", weight, layer.bias)
    missing = [
        inputs[2 + d] - ((weight.shape[3 + d] - 1) * layer.stride[d] - 2 * padding[d]
                         + layer.dilation[d] * (layer.kernel_size[d] - 1) + 1)
        for d in range(2)
    ]  # fmt: skip
    back = F.conv_transpose2d(
        weight.flatten(0, 1), layer.weight, None, layer.stride, padding, missing, layer.groups, layer.dilation
    )
    return back.view(*weight.shape[:2], *inputs[1:]), offset


def _relu_backward(before: Box, weight: Tensor) -> tuple[Tensor, Tensor]:
    low, high = before.low.clamp_max(0), before.high.clamp_min(0)
    upper = high / (high - low).clamp_min(1e-8)
    lower = (before.high > -before.low).to(upper)
    up, down = weight.clamp_min(0), weight.clamp_max(0)
    return up * lower.unsqueeze(1) + down * upper.unsqueeze(1), (down * (-low * upper).unsqueeze(1)).flatten(2).sum(2)
