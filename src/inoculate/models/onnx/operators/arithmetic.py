"""ONNX operators that act on each number by itself: arithmetic, comparisons, choices, types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from inoculate.models.onnx.nodes import Node, torch_dtype
from inoculate.models.onnx.operators.tensors import numbers, together


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda node, x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda node, a, b: function(*together(a, b))


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda node, *inputs: reduce(function, together(*inputs))


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """Whole numbers are rounded towards zero."""
    return a / b if a.is_floating_point() or b.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _power(a: Tensor, b: Tensor) -> Tensor:
    """Of the base's type."""
    return torch.pow(a, b).to(a.dtype)


def _mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    function = torch.fmod if node.get("fmod", 0) else torch.remainder
    return function(*together(a, b))


def _mean(node: Node, *inputs: Tensor) -> Tensor:
    return reduce(torch.add, together(*inputs)) / len(inputs)


def _where(node: Node, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    condition, a, b = together(condition, a, b)
    return torch.where(condition, a, b)


def _clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Limits are inputs since opset 11."""
    limits = [
        node.get("min") if low is None else numbers(low)[0],
        node.get("max") if high is None else numbers(high)[0],
    ]
    return x if limits == [None, None] else torch.clamp(x, *limits)


def _cast(node: Node, x: Tensor) -> Tensor:
    return x.to(torch_dtype(node.get("to")))


def _cast_like(node: Node, x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)


def _cumsum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    dim = int(axis)
    x = x.flip(dim) if node.get("reverse", 0) else x
    total = x.cumsum(dim) - (x if node.get("exclusive", 0) else 0)
    return total.flip(dim) if node.get("reverse", 0) else total


def _dequantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Of constant weights, by tensor or by axis."""
    zero = torch.zeros_like(scale) if zero is None else zero
    if size := node.get("block_size", 0):
        scale, zero = (each.repeat_interleave(size, node.get("axis", 1)) for each in (scale, zero))
    elif scale.ndim == 1 and scale.numel() > 1:
        shape = [1] * x.ndim
        shape[node.get("axis", 1)] = -1
        scale, zero = scale.view(shape), zero.view(shape)
    return (x.to(scale.dtype) - zero.to(scale.dtype)) * scale


ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "Add": _binary(torch.add),
    "Sub": _binary(torch.sub),
    "Mul": _binary(torch.mul),
    "Div": _binary(_divide),
    "Pow": _binary(_power),
    "Mod": _mod,
    "Sum": _variadic(torch.add),
    "Mean": _mean,
    "Min": _variadic(torch.minimum),
    "Max": _variadic(torch.maximum),
    "Neg": _unary(torch.neg),
    "Abs": _unary(torch.abs),
    "Sqrt": _unary(torch.sqrt),
    "Reciprocal": _unary(torch.reciprocal),
    "Exp": _unary(torch.exp),
    "Log": _unary(torch.log),
    "Sin": _unary(torch.sin),
    "Cos": _unary(torch.cos),
    "Atan": _unary(torch.atan),
    "Round": _unary(torch.round),
    "Floor": _unary(torch.floor),
    "Ceil": _unary(torch.ceil),
    "Sign": _unary(torch.sign),
    "IsNaN": _unary(torch.isnan),
    "Equal": _binary(torch.eq),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "And": _binary(torch.logical_and),
    "Or": _binary(torch.logical_or),
    "Xor": _binary(torch.logical_xor),
    "Not": _unary(torch.logical_not),
    "Where": _where,
    "Clip": _clip,
    "Cast": _cast,
    "CastLike": _cast_like,
    "CumSum": _cumsum,
    "DequantizeLinear": _dequantize,
}
