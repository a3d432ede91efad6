"""Small ONNX graphs by hand, and what onnxruntime makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Array = Any
NodeSpec = tuple[str, Sequence[str], Sequence[str], dict[str, Any]]


@dataclass(frozen=True)
class Sample:
    """A graph from `x` to `y`: nodes as (operator, inputs, outputs, attributes), and its constants."""

    nodes: Sequence[NodeSpec]
    constants: dict[str, Array] = field(default_factory=dict)
    shape: tuple[int, ...] = (2, 3, 6, 6)
    opset: int = 17
    label: str = ""

    def __str__(self) -> str:
        return f"{self.label or '-'.join(node[0].split(':')[-1] for node in self.nodes)}-{self.opset}"

    def proto(self) -> Any:
        from onnx import TensorProto, helper, numpy_helper

        made = []
        for op, inputs, outputs, attributes in self.nodes:
            domain, _, name = op.rpartition(":")
            attributes = {
                key: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
                for key, value in attributes.items()
            }
            made.append(
                helper.make_node(name, list(inputs), list(outputs), domain=domain, name=f"n{name}", **attributes)
            )
        graph = helper.make_graph(
            made, "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in self.constants.items()],
        )  # fmt: skip
        opsets = [
            helper.make_opsetid("", self.opset),
            helper.make_opsetid("com.microsoft", 1),
            helper.make_opsetid("ai.onnx.ml", 3),
        ]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def run(self, x: Array) -> Array:
        """The output by onnxruntime."""
        return session(self.proto()).run(None, {"x": x})[0]


def session(proto: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def one(
    op: str, /, *constants: Array, opset: int = 17, shape: tuple[int, ...] = (2, 3, 6, 6), **attributes: Any
) -> Sample:
    """`y = op(x, *constants)`; a constant None is an input left out."""
    named = {f"c{number}": each for number, each in enumerate(constants) if each is not None}
    inputs = ["x", *(f"c{number}" if each is not None else "" for number, each in enumerate(constants))]
    return Sample([(op, inputs, ["y"], attributes)], named, shape, opset)


def numbers(*shape: int, low: float = -1.0, high: float = 1.0, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(low, high, shape).astype("float32")


def whole(*values: int) -> Array:
    return np.array(values, dtype="int64")


def save(proto: Any, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def write_graph(
    path: Path,
    nodes: Sequence[NodeSpec],
    inputs: dict[str, tuple[str, Sequence[int | str | None]]],
    outputs: dict[str, tuple[str, Sequence[int | str | None]]],
    constants: dict[str, Array],
    ir_version: int = 8,
) -> Path:
    """An ONNX file of opset 17; inputs and outputs are name → (type such as FLOAT, shape)."""
    from onnx import TensorProto, helper, numpy_helper

    made = [
        helper.make_node(op.rpartition(":")[2], list(ins), list(outs), domain=op.rpartition(":")[0], **attributes)
        for op, ins, outs, attributes in nodes
    ]
    ends = [
        [helper.make_tensor_value_info(name, getattr(TensorProto, kind), shape) for name, (kind, shape) in each.items()]
        for each in (inputs, outputs)
    ]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph(made, "g", *ends, weights)
    return save(helper.make_model(graph, opset_imports=opsets, ir_version=ir_version), path)
