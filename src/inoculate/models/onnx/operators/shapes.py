"""ONNX operators that move numbers about: shapes, joining, cutting, padding. Shapes are int64 tensors on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inoculate.models.onnx.nodes import Node, UnsupportedError
from inoculate.models.onnx.operators.tensors import axes_of, numbers, together


def _shape(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[node.get("start", 0) : node.get("end")], dtype=torch.int64)


def _reshape(node: Node, x: Tensor, shape: Tensor | None = None) -> Tensor:
    """0 keeps a side, unless `allowzero` is set."""
    sizes = node.get("shape") if shape is None else numbers(shape)
    keep = not node.get("allowzero", 0)
    return x.reshape([x.shape[side] if size == 0 and keep else size for side, size in enumerate(sizes)])


def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(torch.Size(x.shape[:axis]).numel(), -1)


def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.get("perm") or list(range(x.ndim))[::-1])


def _squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = axes_of(node, axes)
    return x.squeeze() if given is None else x.squeeze(tuple(given))


def _unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = axes_of(node, axes) or []
    for axis in sorted(axis % (x.ndim + len(given)) for axis in given):
        x = x.unsqueeze(axis)
    return x


def _concat(node: Node, *inputs: Tensor) -> Tensor:
    return torch.cat(together(*inputs), dim=node.get("axis"))


def _split(node: Node, x: Tensor, split: Tensor | None = None) -> tuple[Tensor, ...]:
    axis, sizes = node.get("axis", 0), axes_of(node, split, "split")
    if sizes is None:
        parts = node.get("num_outputs", len(node.outputs))
        return torch.split(x, -(-x.shape[axis] // parts), axis)
    return torch.split(x, sizes, axis)


def _slice(
    node: Node,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first, last = axes_of(node, starts, "starts") or [], axes_of(node, ends, "ends") or []
    sides = axes_of(node, axes) or list(range(len(first)))
    strides = [1] * len(first) if steps is None else numbers(steps)
    for start, end, side, stride in zip(first, last, sides, strides, strict=True):
        size = x.shape[side]
        if stride > 0:
            index = [slice(None)] * (side % x.ndim) + [slice(max(start, -size), min(end, size), stride)]
            x = x[tuple(index)]
        else:
            places = range(size)[start : end if end >= -size else None : stride]
            x = x.index_select(side, torch.tensor(places, dtype=torch.int64, device=x.device))
    return x


def _expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    sizes = torch.broadcast_shapes(x.shape, tuple(numbers(shape)))  # type: ignore[no-untyped-call]
    return x.expand(sizes)


def _tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(numbers(repeats))


def _pad(
    node: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    amounts = axes_of(node, pads, "pads") or []
    sides = range(x.ndim) if axes is None else [axis % x.ndim for axis in numbers(axes)]
    both = [(0, 0)] * x.ndim
    for side, before, after in zip(sides, amounts[: len(sides)], amounts[len(sides) :], strict=True):
        both[side] = before, after
    mode = node.get("mode", "constant")
    if mode == "constant":
        fill = node.get("value", 0.0) if value is None else numbers(value)[0]
        return F.pad(x, [each for pair in reversed(both) for each in pair], value=fill)
    if mode not in _PADDED_PLACES:
        raise UnsupportedError(f"Pad with mode {mode}")
    for side, (before, after) in enumerate(both):
        if before or after:
            x = F.pad(x.movedim(side, -1), (min(before, 0), min(after, 0))).movedim(-1, side)
            places = torch.arange(-max(before, 0), x.shape[side] + max(after, 0))
            x = x.index_select(side, _PADDED_PLACES[mode](places, x.shape[side]).to(x.device))
    return x


def _reflected(places: Tensor, size: int) -> Tensor:
    period = max(2 * (size - 1), 1)
    return (size - 1) - ((places % period) - (size - 1)).abs()


_PADDED_PLACES: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "reflect": _reflected,
    "edge": lambda places, size: places.clamp(0, size - 1),
    "wrap": lambda places, size: places % size,
}


def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    size = node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, size)
    b, c, h, w = x.shape
    blocks = x.view(b, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(b, c // size**2, h * size, w * size)


def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    size = node.get("blocksize")
    b, c, h, w = x.shape
    blocks = x.reshape(b, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(b, c * size**2, h // size, w // size)


def _constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    value = node.get("value", torch.zeros(1))
    return torch.full(tuple(numbers(shape)), numbers(value)[0], dtype=value.dtype)


def _range(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _trilu(node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k)
    return x.triu(diagonal) if node.get("upper", 1) else x.tril(diagonal)


SHAPES: Mapping[str, Callable[..., Any]] = {
    "Shape": _shape,
    "Size": lambda node, x: torch.tensor(x.numel()),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Identity": lambda node, x: x,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Trilu": _trilu,
}
