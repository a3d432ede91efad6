"""Rules of functions that average values, or change their places, by arguments as torch has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inoculate.certification.bounds.affine import Gathered
from inoculate.certification.bounds.places import Place, Rule, UnboundedError, View


def average_pooled(
    view: View, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Gathered:  # fmt: skip
    if (divisor_override or 1) < 0:
        raise UnboundedError("its divisor is negative")

    def pool(values: Tensor) -> Tensor:
        pooled: Tensor = torch.ops.aten.avg_pool2d(
            values, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override
        )
        return pooled

    return Gathered(pool, view.inputs, _pixels(view) + 1)


def adaptively_averaged(view: View, x: Any, size: Any) -> Gathered:
    return Gathered(lambda values: F.adaptive_avg_pool2d(values, size), view.inputs, _pixels(view) + 1)


def _pixels(view: View) -> int:
    if len(view.inputs[0]) != 3:
        raise UnboundedError("it pools an image without channels")
    return prod(view.inputs[0][1:])


def mean(view: View, x: Any, dims: Sequence[int], keepdim: bool = False, **_: Any) -> Gathered:
    sides = [view.inputs[0][d % (len(view.inputs[0]) + 1) - 1] for d in dims]
    if 0 in [d % (len(view.inputs[0]) + 1) for d in dims]:
        raise UnboundedError("it mixes the images of a batch")
    return Gathered(lambda values: values.mean(tuple(dims), keepdim), view.inputs, prod(sides) + 1)


def reshaped(view: View, *_: Any, **__: Any) -> Gathered:
    if prod(view.inputs[0]) != prod(view.output):
        raise UnboundedError("it mixes the images of a batch")
    return Gathered(lambda values: values.reshape(len(values), *view.output), view.inputs)


def permuted(view: View, x: Any, dims: Sequence[int]) -> Gathered:
    if dims[0] != 0:
        raise UnboundedError("it mixes the images of a batch")
    return Gathered(lambda values: values.permute(*dims), view.inputs)


def transposed(view: View, x: Any, one: int, other: int) -> Gathered:
    order = len(view.output) + 1
    if 0 in (one % order, other % order):
        raise UnboundedError("it mixes the images of a batch")
    return Gathered(lambda values: values.transpose(one, other), view.inputs)


def on_dimension(function: Callable[..., Tensor], repeats: bool = False) -> Rule:
    """Functions of `(values, dimension, …)` that take some of the values, or take them several times."""

    def rule(view: View, x: Any, dim: int = 0, *args: Any) -> Gathered:
        if dim % (len(view.inputs[0]) + 1) == 0:
            if function is sliced and args[:1] in ((), (0,)) and view.inputs[0] == view.output:
                return Gathered(lambda values: values, view.inputs)
            raise UnboundedError("it mixes the images of a batch")
        return Gathered(lambda values: function(values, dim, *args), view.inputs, repeats=repeats)

    return rule


def expanded(view: View, x: Any, *_: Any, **__: Any) -> Gathered:
    if len(view.inputs[0]) != len(view.output):
        raise UnboundedError("it mixes the images of a batch")
    return Gathered(lambda values: values.expand(len(values), *view.output), view.inputs, repeats=True)


def repeated(view: View, x: Any, times: Sequence[int]) -> Gathered:
    if times[0] != 1:
        raise UnboundedError("it mixes the images of a batch")
    return Gathered(lambda values: values.repeat(*times), view.inputs, repeats=True)


def concatenated(view: View, parts: Sequence[Any], dim: int = 0) -> Gathered:
    if not all(isinstance(part, Place) for part in parts) or dim % (len(view.output) + 1) == 0:
        raise UnboundedError("it joins values with constants, or the images of a batch")
    return Gathered(lambda *values: torch.cat(values, dim), view.inputs)


def padded(view: View, x: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Gathered:
    if mode != "constant" or value:
        raise UnboundedError(f"padding '{mode}' with {value or 0:g}")
    return Gathered(lambda values: F.pad(values, list(pad)), view.inputs)


def select_one(values: Tensor, dim: int, index: int) -> Tensor:
    return values.select(dim, index)


def sliced(values: Tensor, dim: int, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
    chosen = torch.arange(values.shape[dim], device=values.device)[slice(start, end, step)]
    return values.index_select(dim, chosen)


def index_select(values: Tensor, dim: int, index: Tensor) -> Tensor:
    return values.index_select(dim, index.to(values.device))
