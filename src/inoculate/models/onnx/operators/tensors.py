"""What operators share: tensors on one device, axes and sizes as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from inoculate.models.onnx.nodes import Node


def together(*tensors: Tensor) -> list[Tensor]:
    """The tensors on one device: an accelerator if one of them is on it. Shapes and constant indices are on the CPU."""
    device = next((each.device for each in tensors if not each.is_cpu), None)
    return list(tensors) if device is None else [each.to(device) for each in tensors]


def numbers(tensor: Tensor) -> list[Any]:
    """The entries of a tensor as Python numbers."""
    found: list[Any] = tensor.flatten().tolist()
    return found


def axes_of(node: Node, axes: Tensor | None, name: str = "axes") -> list[int] | None:
    """The axes that are an input in newer opsets and an attribute in older ones; None where neither is given."""
    if axes is not None:
        return [int(axis) for axis in numbers(axes)]
    given: Sequence[int] | None = node.get(name)
    return None if given is None else list(given)
