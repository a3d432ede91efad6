"""Operators of ONNX's `ai.onnx.ml` domain, by which scikit-learn's linear models and scalers are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from inoculate.models.onnx.nodes import Node, UnsupportedError

SCORES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "NONE": lambda scores: scores,
    "SOFTMAX": lambda scores: scores.softmax(dim=1),
    "LOGISTIC": torch.sigmoid,
}
NORMS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "MAX": lambda x: x.amax(dim=1, keepdim=True),
    "L1": lambda x: x.abs().sum(dim=1, keepdim=True),
    "L2": lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True),
}


def _linear_classifier(node: Node, x: Tensor) -> tuple[Tensor, Tensor]:
    """Places of the largest score, which stand for the labels, and the scores."""
    shift = torch.tensor(node.get("intercepts", []), dtype=x.dtype, device=x.device)
    matrix = torch.tensor(node.get("coefficients"), dtype=x.dtype, device=x.device).view(-1, x.shape[1])
    how = node.get("post_transform", "NONE")
    if len(matrix) < 2 or how not in SCORES:
        raise UnsupportedError(f"LinearClassifier of {len(matrix)} scores with {how}")
    scores = x @ matrix.T
    scores = SCORES[how](scores + shift if len(shift) else scores)
    return scores.argmax(dim=1), scores


def _scaler(node: Node, x: Tensor) -> Tensor:
    offset, scale = (torch.tensor(node.get(each), dtype=x.dtype, device=x.device) for each in ("offset", "scale"))
    return (x - offset) * scale


def _normalizer(node: Node, x: Tensor) -> Tensor:
    return x / NORMS[node.get("norm", "MAX")](x)


CLASSICAL: Mapping[str, Callable[..., Any]] = {
    "ai.onnx.ml:LinearClassifier": _linear_classifier,
    "ai.onnx.ml:Scaler": _scaler,
    "ai.onnx.ml:Normalizer": _normalizer,
}
