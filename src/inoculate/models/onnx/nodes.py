"""The part of an ONNX file from which its logits are computed, as nodes and constant tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inoculate.core.errors import InputError, one_line
from inoculate.core.extras import require


class UnsupportedError(Exception):
    """Something in an ONNX graph has no differentiable conversion; the text says what, without the file's name."""


@dataclass(frozen=True)
class Node:
    """One operation. `op` has its domain in front where that is not ONNX's own (`com.microsoft:Gelu`).

    An optional input that is left out is "". Attributes are numbers, texts, lists of these, and tensors.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int

    def get(self, attribute: str, default: Any = None) -> Any:
        """An attribute's value, or `default` where the node does not have it."""
        return self.attributes.get(attribute, default)

    def __str__(self) -> str:
        return f"{self.op} ({self.name})" if self.name else self.op


@dataclass(frozen=True)
class Graph:
    """The nodes that one output depends on, in order of execution, and the constant tensors that they use."""

    input: str
    output: str
    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]


def read_proto(path: Path, *, weights: bool = True) -> Any:
    """The `onnx.ModelProto` in a file; without `weights`, those in files of their own are not read.

    Raises `InputError` if the package is missing or the file is damaged or incomplete.
    """
    require("onnx", "onnx", f"model {path}")
    import onnx

    try:
        proto = onnx.load(str(path), load_external_data=False)
        if weights and (missing := [each.name for each in _weight_files(path, proto) if not each.is_file()]):
            raise InputError(f"model {path} has its weights in {', '.join(missing)}: put the file beside it")
        if weights:
            onnx.load_external_data_for_model(proto, str(path.parent))
        return proto
    except InputError:
        raise
    except Exception as error:  # protobuf's and onnx's errors have no other common class
        raise InputError(f"model {path} cannot be loaded ({one_line(error)}): export it to ONNX again") from error


def weight_files(path: Path) -> list[Path]:
    """The files beside an ONNX file that hold its weights. Raises `InputError` like `read_proto`."""
    return _weight_files(path, read_proto(path, weights=False))


def _weight_files(path: Path, proto: Any) -> list[Path]:
    entries = (entry for each in proto.graph.initializer for entry in each.external_data)
    return sorted({path.parent / entry.value for entry in entries if entry.key == "location"})


def read_graph(proto: Any, input_name: str, output_name: str) -> Graph:
    """The part of a model that computes one output from the images; functions of the file are written out.

    Half precision becomes single. Raises `UnsupportedError` for a graph inside a node, or a tensor of a type that torch
    does not have.
    """
    from onnx import inliner

    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    opsets = {each.domain: each.version for each in proto.opset_import}
    constants, nodes = {}, []
    initializers = {each.name: each for each in proto.graph.initializer}
    for node in _needed(proto.graph.node, output_name):
        attributes = {each.name: _attribute(node, each) for each in node.attribute}
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant(attributes)
            continue
        standard = node.domain in ("", "ai.onnx")
        op = node.op_type if standard else f"{node.domain}:{node.op_type}"
        opset = opsets.get("", opsets.get("ai.onnx", 1)) if standard else opsets.get(node.domain, 1)
        nodes.append(Node(op, node.name, tuple(node.input), tuple(node.output), attributes, opset))
    used = {name for node in nodes for name in node.inputs} | {output_name}
    constants.update({name: tensor_of(initializers[name]) for name in used if name in initializers})
    return Graph(input_name, output_name, tuple(nodes), constants)


def uses_half(proto: Any) -> bool:
    """Whether the images, a weight or a cast of a model (`onnx.ModelProto`) are in half precision."""
    import onnx

    halves = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    casts = {each.i for node in proto.graph.node if node.op_type == "Cast" for each in node.attribute}
    weights = {each.data_type for each in proto.graph.initializer}
    images = {each.type.tensor_type.elem_type for each in proto.graph.input}
    return bool(halves & (casts | weights | images))


def tensor_of(proto: Any) -> Tensor:
    """An ONNX tensor as a torch tensor, half precision as single. Raises `UnsupportedError` for another type."""
    from onnx import numpy_helper

    array = numpy_helper.to_array(proto)
    if array.dtype.kind == "V" or array.dtype.name in ("float16", "bfloat16"):
        array = array.astype("float32")
    try:
        return torch.from_numpy(array.copy())
    except TypeError as error:
        raise UnsupportedError(f"a tensor of {array.dtype.name} ({proto.name})") from error


def torch_dtype(onnx_type: int) -> torch.dtype:
    """The torch type for a number of `onnx.TensorProto.DataType`; half precision becomes single."""
    import onnx

    name = onnx.TensorProto.DataType.Name(onnx_type).lower()
    singles = {"float": "float32", "float16": "float32", "bfloat16": "float32", "double": "float64"}
    dtype = getattr(torch, singles.get(name, name), None)
    if not isinstance(dtype, torch.dtype):
        raise UnsupportedError(f"the type {name}")
    return dtype


def _needed(nodes: Iterable[Any], output: str) -> list[Any]:
    """The nodes that `output` depends on, in order."""
    wanted, found = {output}, []
    for node in reversed(list(nodes)):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            found.append(node)
    return found[::-1]


def _attribute(node: Any, attribute: Any) -> Any:
    import onnx

    kinds = onnx.AttributeProto
    if attribute.type in (kinds.GRAPH, kinds.GRAPHS):
        raise UnsupportedError(f"the operator {node.op_type}")
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == kinds.TENSOR:
        return tensor_of(value)
    if isinstance(value, bytes):
        return value.decode()
    return [each.decode() if isinstance(each, bytes) else each for each in value] if _is_list(value) else value


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str)


def _constant(attributes: Mapping[str, Any]) -> Tensor:
    ((name, value),) = attributes.items()
    if name == "value":
        return value  # type: ignore[no-any-return]
    if name not in ("value_float", "value_floats", "value_int", "value_ints"):
        raise UnsupportedError(f"a Constant with {name}")
    return torch.tensor(value, dtype=torch.float32 if "float" in name else torch.int64)
