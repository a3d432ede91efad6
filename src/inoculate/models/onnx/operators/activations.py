"""ONNX activation functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inoculate.models.onnx.nodes import Node
from inoculate.models.onnx.operators.tensors import together

OPSET_13 = 13


def _prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    x, slope = together(x, slope)
    return torch.where(x > 0, x, x * slope)


def _elu(node: Node, x: Tensor) -> Tensor:
    return F.elu(x, node.get("alpha", 1.0))


def _selu(node: Node, x: Tensor) -> Tensor:
    gamma: float = node.get("gamma", 1.0507010221481323)
    return gamma * F.elu(x, node.get("alpha", 1.6732631921768188))


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return torch.clamp(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1)


def _gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.get("approximate", "none"))


def _swish(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.get("alpha", 1.0) * x)


def _quick_gelu(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.get("alpha", 1.702) * x)


def _bias_gelu(node: Node, x: Tensor, bias: Tensor) -> Tensor:
    return F.gelu(x + bias)


def _softmax(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def apply(node: Node, x: Tensor) -> Tensor:
        """Before opset 13 it runs over all axes from `axis` on."""
        if node.opset >= OPSET_13:
            return function(x, dim=node.get("axis", -1))
        axis = node.get("axis", 1) % x.ndim
        return function(x.flatten(axis), dim=-1).view(x.shape)

    return apply


ACTIVATIONS: Mapping[str, Callable[..., Any]] = {
    "Relu": lambda node, x: F.relu(x),
    "LeakyRelu": lambda node, x: F.leaky_relu(x, node.get("alpha", 0.01)),
    "ThresholdedRelu": lambda node, x: torch.where(x > node.get("alpha", 1.0), x, 0),
    "PRelu": _prelu,
    "Elu": _elu,
    "Celu": lambda node, x: F.celu(x, node.get("alpha", 1.0)),
    "Selu": _selu,
    "Sigmoid": lambda node, x: torch.sigmoid(x),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda node, x: F.hardswish(x),
    "Softplus": lambda node, x: F.softplus(x),
    "Softsign": lambda node, x: F.softsign(x),
    "Tanh": lambda node, x: torch.tanh(x),
    "Erf": lambda node, x: torch.erf(x),
    "Gelu": _gelu,
    "Mish": lambda node, x: F.mish(x),
    "Swish": _swish,
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
    "com.microsoft:Gelu": lambda node, x: F.gelu(x),
    "com.microsoft:QuickGelu": _quick_gelu,
    "com.microsoft:BiasGelu": _bias_gelu,
}
