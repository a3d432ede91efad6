"""From the nodes of a traced program to the steps of a graph."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from inoculate.certification.bounds.graph import Graph, Node
from inoculate.certification.bounds.places import BATCH, Place, Rule, UnboundedError, View
from inoculate.certification.bounds.rules import COPIES, IDENTICAL, SAME
from inoculate.core.errors import InputError

FLOATS = (torch.float32, torch.float64)


class Builder:
    """Follows a program: what each of its nodes is, the place of a node of the graph, a constant, or an error.

    A step without bounds is an error to those that read it only: the logits may not depend on it. `constants` are the
    inputs of the program other than the images, by name. With `dropout` it may be on, and counts for nothing.
    """

    def __init__(
        self, shape: tuple[int, ...], constants: Mapping[str, Tensor], rules: Mapping[str, Rule], dropout: bool = False
    ) -> None:
        self.shape, self.constants, self.rules, self.dropout = shape, constants, rules, dropout
        self.nodes: list[Node] = []
        self.known: dict[fx.Node, Any] = {}
        self.tensors: dict[fx.Node, fx.Node] = {}  # the first node whose value is the same tensor
        self.memory: dict[fx.Node, fx.Node] = {}  # the first node with whose value it may share memory
        self.output: object = None

    def shape_of(self, place: Place) -> tuple[int, ...]:
        return self.nodes[place.number - 1].shape if place.number else self.shape

    @property
    def graph(self) -> Graph:
        """What the program was. Raises `InputError` for logits without bounds."""
        place = self.output
        if isinstance(place, UnboundedError):
            raise InputError(str(place))
        if not isinstance(place, Place) or len(self.shape_of(place)) != 1:
            raise InputError("the model's outputs are not logits that depend on the images: no bounds")
        return Graph(self.shape, tuple(self.nodes), place.number)

    def add(self, node: fx.Node) -> None:
        """Take in the next node of the program. Raises `InputError` for one that writes where it cannot be followed."""
        self.tensors[node] = self.memory[node] = node
        if node.op == "placeholder":
            self.known[node] = self.constants.get(node.name, Place(0))
            return
        args, kwargs = pytree.tree_map_only(fx.Node, self.known.get, (node.args, dict(node.kwargs)))
        leaves = pytree.arg_tree_leaves(*args, **kwargs)
        if node.op == "output":
            self.output = leaves[0]
            return
        try:
            self.known[node] = self._value(node, leaves, args, kwargs)
        except UnboundedError as error:
            if _writes(node):
                raise InputError(_refused(node, error)) from None
            self.known[node] = UnboundedError(_refused(node, error))

    def _value(self, node: fx.Node, leaves: Iterable[Any], args: Any, kwargs: Any) -> Any:
        reads = [each for each in leaves if isinstance(each, Place)]
        failed = [each for each in leaves if isinstance(each, UnboundedError)]
        if failed and _writes(node):
            raise InputError(str(failed[0]))
        if failed:
            return failed[0]
        if node.op != "call_function":
            raise UnboundedError
        if _is_random(node, args) and not (self.dropout and str(node.target) in SAME):
            raise UnboundedError("it is random")
        if not reads:
            target: Any = node.target
            return target(*args, **kwargs)
        self._share(node)
        if str(node.target) in SAME and _stays_float(node):
            return args[0]
        place = self._add_step(node, reads, args, kwargs)
        if _writes(node):
            self._overwrite(node, place)
        return place

    def _add_step(self, node: fx.Node, reads: list[Place], args: Any, kwargs: Any) -> Place:
        meta, rule = node.meta.get("val"), self.rules.get(str(node.target))
        if rule is None or not isinstance(meta, Tensor):
            raise UnboundedError
        if meta.dtype not in FLOATS:
            raise UnboundedError(f"it computes in {str(meta.dtype).removeprefix('torch.')}")
        if not meta.ndim or meta.shape[0] != BATCH:
            raise UnboundedError("it mixes the images of a batch")
        view = View(tuple(map(self.shape_of, reads)), tuple(int(side) for side in meta.shape[1:]))
        try:
            inspect.signature(rule).bind(view, *args, **kwargs)
        except TypeError as error:
            raise UnboundedError(str(error)) from None
        operator = rule(view, *args, **kwargs)
        self.nodes.append(Node(operator, tuple(each.number for each in reads), _layer(node), view.output))
        return Place(len(self.nodes))

    def _share(self, node: fx.Node) -> None:
        """Note what the value of a node has in common with that of its first argument."""
        first, name = node.args[0], str(node.target)
        if not isinstance(first, fx.Node) or name in COPIES:
            return
        schema = getattr(node.target, "_schema", None)
        if name in SAME or schema is None or any(each.alias_info for each in schema.returns):
            self.memory[node] = self.memory[first]
        if name in IDENTICAL or _writes(node):
            self.tensors[node] = self.tensors[first]

    def _overwrite(self, node: fx.Node, place: Place) -> None:
        """A step in place: whoever holds the tensor sees the new values. Other views of it must not be read again."""
        for other in self.known:
            if self.memory[other] is not self.memory[node] or all(user in self.known for user in other.users):
                continue
            if self.tensors[other] is not self.tensors[node]:
                raise UnboundedError("it changes in place what is also read in another shape")
            self.known[other] = place


def _writes(node: fx.Node) -> bool:
    """Whether a step changes one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _is_random(node: fx.Node, args: Sequence[Any]) -> bool:
    if str(node.target) in SAME:
        return "dropout" in str(node.target) and bool(args[2])
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _stays_float(node: fx.Node) -> bool:
    meta = node.meta.get("val")
    return not isinstance(meta, Tensor) or meta.dtype in FLOATS


def _refused(node: fx.Node, error: UnboundedError) -> str:
    why = f" ({error})" if str(error) else ""
    return f"no bounds are known of layer {_layer(node)}{why}: use smoothing, or another layer"


def _layer(node: fx.Node) -> str:
    """The name of the layer that a node of the program belongs to, its type, and what it computes."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = stack[-1] if stack else ("", "")
    path = str(path).removeprefix("model").removeprefix(".") or "model"
    function = str(node.target).split(".")[1] if "." in str(node.target) else str(node.target)
    return f"{path} ({str(kind).rpartition('.')[2]}, {function})"
