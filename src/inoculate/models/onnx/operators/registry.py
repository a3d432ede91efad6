"""Every ONNX operator that has a conversion: a function of the node and its inputs (None for one left out)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from inoculate.models.onnx.operators.activations import ACTIVATIONS
from inoculate.models.onnx.operators.arithmetic import ARITHMETIC
from inoculate.models.onnx.operators.classical import CLASSICAL
from inoculate.models.onnx.operators.indexing import INDEXING
from inoculate.models.onnx.operators.layers import LAYERS
from inoculate.models.onnx.operators.pooling import POOLING
from inoculate.models.onnx.operators.reductions import REDUCTIONS
from inoculate.models.onnx.operators.resize import RESIZING
from inoculate.models.onnx.operators.shapes import SHAPES

OPERATORS: Mapping[str, Callable[..., Any]] = {
    **ARITHMETIC, **ACTIVATIONS, **LAYERS, **POOLING, **SHAPES, **INDEXING, **REDUCTIONS, **RESIZING,
    **CLASSICAL,
}  # fmt: skip
