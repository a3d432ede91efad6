"""ONNX operators that pick numbers by their places, or find places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from inoculate.models.onnx.nodes import Node, UnsupportedError
from inoculate.models.onnx.operators.tensors import numbers


def _gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0) % x.ndim
    places = _positive(indices, x.shape[axis]).to(x.device)
    picked = x.index_select(axis, places.flatten())
    return picked.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0)
    return x.gather(axis, _positive(indices, x.shape[axis]).to(x.device))


def _gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    batch = node.get("batch_dims", 0)
    if batch:
        parts = [_gather_nd_flat(each, index) for each, index in zip(*_rows(x, indices, batch), strict=True)]
        return torch.stack(parts).reshape([*x.shape[:batch], *parts[0].shape])
    return _gather_nd_flat(x, indices)


def _gather_nd_flat(x: Tensor, indices: Tensor) -> Tensor:
    return x[tuple(indices.long().to(x.device).movedim(-1, 0))]


def _rows(x: Tensor, indices: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    return x.flatten(0, batch - 1), indices.flatten(0, batch - 1)


def _scatter_elements(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis, how = node.get("axis", 0), node.get("reduction", "none")
    places = _positive(indices, x.shape[axis]).to(x.device)
    if how == "none":
        return x.scatter(axis, places, updates)
    reductions = {"add": "sum", "mul": "prod", "min": "amin", "max": "amax"}
    return x.scatter_reduce(axis, places, updates, reductions[how])


def _scatter_nd(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    how = node.get("reduction", "none")
    if how not in ("none", "add"):
        raise UnsupportedError(f"ScatterND with reduction {how}")
    places = tuple(indices.long().to(x.device).movedim(-1, 0))
    return x.index_put(places, updates.to(x.device), accumulate=how == "add")


def _arg_best(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def apply(node: Node, x: Tensor) -> Tensor:
        axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
        if not node.get("select_last_index", 0):
            return function(x, dim=axis, keepdim=keep)
        size: int = x.shape[axis]
        return function(x.flip(axis), dim=axis, keepdim=keep).neg() + (size - 1)

    return apply


def _top_k(node: Node, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    count = node.get("k") if k is None else int(numbers(k)[0])
    found = x.topk(count, dim=node.get("axis", -1), largest=bool(node.get("largest", 1)))
    return found.values, found.indices


def _one_hot(node: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    size, axis = int(numbers(depth)[0]), node.get("axis", -1)
    hot = torch.nn.functional.one_hot(indices.long() % size, size).bool()
    hot = hot.movedim(-1, axis % (indices.ndim + 1))
    return torch.where(hot, values[1].to(hot.device), values[0].to(hot.device))


def _non_zero(node: Node, x: Tensor) -> Tensor:
    return x.nonzero().T


def _positive(indices: Tensor, size: int) -> Tensor:
    """Negative places count from the end."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


INDEXING: Mapping[str, Callable[..., Any]] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "ArgMax": _arg_best(torch.argmax),
    "ArgMin": _arg_best(torch.argmin),
    "TopK": _top_k,
    "OneHot": _one_hot,
    "NonZero": _non_zero,
}
