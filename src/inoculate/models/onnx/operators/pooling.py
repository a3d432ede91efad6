"""ONNX pooling operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inoculate.models.onnx.nodes import Node, UnsupportedError
from inoculate.models.onnx.operators.windows import Windows, pad

MAX_POOLS: Mapping[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _max_pool(node: Node, x: Tensor) -> Tensor:
    if len(node.outputs) > 1 and node.outputs[1]:
        raise UnsupportedError("MaxPool with indices")
    windows, padded, _ = _padded(node, x, -math.inf)
    return MAX_POOLS[x.ndim - 2](padded, windows.kernel, windows.stride, dilation=windows.dilation)


def _average_pool(node: Node, x: Tensor) -> Tensor:
    """The sum over each window, divided by how many of its pixels count."""
    windows, padded, beyond = _padded(node, x, 0.0)
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    before, after = windows.padding(node, x.shape[2:])
    counts = pad(ones, before, after, float(bool(node.get("count_include_pad", 0))))
    counts = pad(counts, [0] * len(beyond), beyond)
    return _window_sum(padded, windows) / _window_sum(counts, windows)


def _lp_pool(node: Node, x: Tensor) -> Tensor:
    windows, padded, _ = _padded(node, x, 0.0)
    p = node.get("p", 2)
    return _window_sum(padded.abs() ** p, windows) ** (1 / p)  # type: ignore[no-any-return]


def _padded(node: Node, x: Tensor, value: float) -> tuple[Windows, Tensor, list[int]]:
    """The windows of a pooling node, the padded image, and the padding that `ceil_mode` adds at the end."""
    windows = Windows.of(node, node.get("kernel_shape"))
    before, after = windows.padding(node, x.shape[2:])
    beyond = [0] * len(before)
    if node.get("ceil_mode", 0):
        for side, (extent, stride) in enumerate(zip(windows.extent, windows.stride, strict=True)):
            length = x.shape[2 + side] + before[side] + after[side]
            steps = math.ceil((length - extent) / stride)
            if steps * stride >= x.shape[2 + side] + before[side]:  # the last window would lie in padding alone
                steps -= 1
            beyond[side] = max(steps * stride + extent - length, 0)
    ends = [a + b for a, b in zip(after, beyond, strict=True)]
    return windows, pad(x, before, ends, value), beyond


def _window_sum(x: Tensor, windows: Windows) -> Tensor:
    """The sum over each window, one side after the other."""
    for side, (kernel, stride, gap) in enumerate(zip(windows.kernel, windows.stride, windows.dilation, strict=True)):
        x = x.unfold(2 + side, (kernel - 1) * gap + 1, stride)[..., ::gap].sum(dim=-1)
    return x


def _global_average(node: Node, x: Tensor) -> Tensor:
    return x.mean(dim=list(range(2, x.ndim)), keepdim=True)


def _global_max(node: Node, x: Tensor) -> Tensor:
    return x.amax(dim=list(range(2, x.ndim)), keepdim=True)


def _global_lp(node: Node, x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, node.get("p", 2), dim=list(range(2, x.ndim)), keepdim=True)
    return norm


POOLING: Mapping[str, Callable[..., Any]] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "LpPool": _lp_pool,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "GlobalLpPool": _global_lp,
}
