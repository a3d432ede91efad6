"""ONNX Resize and Upsample, one side after the other: each is a product with a matrix of interpolation weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from inoculate.models.onnx.nodes import Node, UnsupportedError
from inoculate.models.onnx.operators.tensors import numbers

COORDINATES: Mapping[str, Callable[[Tensor, float, int, int], Tensor]] = {
    "half_pixel": lambda place, scale, old, new: (place + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda place, scale, old, new: (place + 0.5) / scale - 0.5 if new > 1 else place * 0,
    "align_corners": lambda place, scale, old, new: place * (old - 1) / max(new - 1, 1),
    "asymmetric": lambda place, scale, old, new: place / scale,
}
ROUNDING: Mapping[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda place: torch.ceil(place - 0.5),
    "round_prefer_ceil": lambda place: torch.floor(place + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


def _resize(
    node: Node, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    """By `sizes` or else `scales`; opset 10 has the scales as its second input."""
    if node.opset < 11 and scales is None:
        roi, scales = None, roi
    if node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedError("Resize that keeps the aspect ratio")
    if node.get("antialias", 0):
        raise UnsupportedError("Resize with antialias")
    axes = [axis % x.ndim for axis in node.get("axes", range(x.ndim))]
    if sizes is not None and sizes.numel():
        wanted = [(int(size), int(size) / x.shape[axis]) for axis, size in zip(axes, numbers(sizes), strict=True)]
    else:
        factors = [1.0] * len(axes) if scales is None else numbers(scales)
        wanted = [(math.floor(x.shape[axis] * factor), factor) for axis, factor in zip(axes, factors, strict=True)]
    for axis, (size, scale) in zip(axes, wanted, strict=True):
        if size != x.shape[axis] or scale != 1:
            x = _resize_side(node, x, axis, size, scale)
    return x


def _upsample(node: Node, x: Tensor, scales: Tensor | None = None) -> Tensor:
    factors = torch.tensor(node.get("scales")) if scales is None else scales
    attributes = {
        "mode": node.get("mode", "nearest"), "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor",
    }  # fmt: skip
    return _resize(Node("Resize", node.name, node.inputs, node.outputs, attributes, 11), x, None, factors)


def _resize_side(node: Node, x: Tensor, axis: int, size: int, scale: float) -> Tensor:
    old, legacy = x.shape[axis], node.opset < 11
    how = node.get("coordinate_transformation_mode", "asymmetric" if legacy else "half_pixel")
    if how not in COORDINATES:
        raise UnsupportedError(f"Resize with {how}")
    places = COORDINATES[how](torch.arange(size, dtype=torch.float32), scale, old, size)
    mode = node.get("mode", "nearest")
    if mode == "nearest":
        rounding = ROUNDING[node.get("nearest_mode", "floor" if legacy else "round_prefer_floor")]
        return x.index_select(axis, rounding(places).long().clamp(0, old - 1).to(x.device))
    weights = _weights(node, mode, places, old).to(x.device, x.dtype)
    return (x.movedim(axis, -1) @ weights.T).movedim(-1, axis)


def _weights(node: Node, mode: str, places: Tensor, old: int) -> Tensor:
    """The matrix (new × old) of a linear or cubic interpolation at these places; weights beyond an edge go to it."""
    reach = 2 if mode == "cubic" else 1
    taps = torch.floor(places)[:, None] + torch.arange(1 - reach, reach + 1)
    distance = (places[:, None] - taps).abs()
    weights = _cubic(distance, node.get("cubic_coeff_a", -0.75)) if mode == "cubic" else (1 - distance).clamp_min(0)
    if node.get("exclude_outside", 0):
        weights = weights * ((taps >= 0) & (taps < old))
        weights = weights / weights.sum(dim=1, keepdim=True)
    matrix = torch.zeros(len(places), old)
    return matrix.scatter_add(1, taps.long().clamp(0, old - 1), weights)


def _cubic(d: Tensor, a: float) -> Tensor:
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = a * (((d - 5) * d + 8) * d - 4)
    return torch.where(d <= 1, near, torch.where(d < 2, far, 0.0))


RESIZING: Mapping[str, Callable[..., Any]] = {"Resize": _resize, "Upsample": _upsample}
