"""A network as the steps that it is made of, traced with `torch.export`: its `forward` need not be a chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from inoculate.certification.bounds.operators import Operator, cast
from inoculate.certification.bounds.places import BATCH, Place, UnboundedError, View
from inoculate.certification.bounds.rules import IN_PLACE, RULES, SAME
from inoculate.core.calls import call
from inoculate.core.errors import InputError, one_line
from inoculate.core.modes import device_of, frozen, modules_of
from inoculate.core.outputs import logits_of


@dataclass(frozen=True, eq=False)
class Node:
    """A step: its operator, the nodes it reads by number (0 is the images), its layer's name, its output's shape."""

    operator: Operator
    inputs: tuple[int, ...]
    layer: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """The steps of a network in an order in which they can be taken.

    Fields:
        shape: of an image (C×H×W).
        nodes: node i + 1 is `nodes[i]`; node 0 is the images.
        output: the number of the node of the logits (B×K).
    """

    shape: tuple[int, ...]
    nodes: tuple[Node, ...]
    output: int

    def to(self, dtype: torch.dtype, device: torch.device | None = None) -> Graph:
        """The same with numbers of another precision, or on another device."""
        nodes = [replace(node, operator=cast(node.operator, dtype, device)) for node in self.nodes]
        return replace(self, nodes=tuple(nodes))

    def value(self, x: Tensor) -> Tensor:
        """The logits (B×K) of images (B×C×H×W)."""
        found = [x]
        for node in self.nodes[: self.output]:
            found.append(node.operator.value(*(found[i] for i in node.inputs)))
        return found[self.output]

    @property
    def classes(self) -> int:
        return self.shape_of(self.output)[0]

    def shape_of(self, number: int) -> tuple[int, ...]:
        """The shape of a node's output, without the batch."""
        return self.nodes[number - 1].shape if number else self.shape

    def is_exact(self, number: int) -> bool:
        """Whether the intervals of a node are exact in L∞: at most one layer in front of it adds up values."""
        layers = [0]
        for node in self.nodes[:number]:
            before = max(layers[i] for i in node.inputs)
            layers.append(before + (node.operator.mixes if node.operator.affine else 2))
        return layers[number] < 2

    @property
    def kinked_values(self) -> int:
        """How many values for an image go into ReLUs."""
        return sum(self.sizes[node.inputs[0]] for node in self.nodes if node.operator.kinked)

    @property
    def sizes(self) -> list[int]:
        """How many values each node gives for an image."""
        return [torch.Size(self.shape_of(number)).numel() for number in range(len(self.nodes) + 1)]


def trace(model: nn.Module, shape: Sequence[int]) -> Graph:
    """The steps of `model` in eval mode for images of `shape` (C×H×W), in float64.

    The model is left as it was. `to(torch.float32)` makes bounds quicker and, by rounding outwards, a little looser.

    Raises `InputError` for a model whose steps cannot be followed, that is in half precision, or that has a layer
    without bounds, which it names.
    """
    if any(each.dtype.itemsize < 4 for module in modules_of(model) for each in module.parameters()):
        raise InputError("bounds are for a model in float32: give model.float()")
    with frozen(model), torch.no_grad():
        images = torch.zeros(BATCH, *shape, device=device_of(model))
        call(model, images)  # what it does not take is said better here than by the trace
        try:
            program = torch.export.export(_Caller(model), (images,), strict=False)
        except Exception as error:
            raise InputError(f"the model's steps cannot be followed ({one_line(error)}): no bounds") from error
        return _graph(program, tuple(shape)).to(torch.float64, images.device)


class _Caller(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = logits_of(self.model(x))
        return logits


def _graph(program: Any, shape: tuple[int, ...]) -> Graph:
    builder = _Builder(shape, _constants(program))
    for node in program.graph.nodes:
        builder.add(node)
    place = builder.output
    if not isinstance(place, Place) or len(builder.shape_of(place)) != 1:
        raise InputError("the model's outputs are not logits that depend on the images: no bounds")
    return Graph(shape, tuple(builder.nodes), place.number)


def _constants(program: Any) -> dict[str, Tensor]:
    """The values of the program's inputs other than the images, by name."""
    found = {}
    for spec in program.graph_signature.input_specs:
        if spec.target is not None:
            store = program.state_dict if spec.target in program.state_dict else program.constants
            found[spec.arg.name] = store[spec.target]
    return found


class _Builder:
    """Follows a program: what each of its nodes is, the place of a node of the graph or a constant."""

    def __init__(self, shape: tuple[int, ...], constants: dict[str, Tensor]) -> None:
        self.shape, self.constants = shape, constants
        self.nodes: list[Node] = []
        self.known: dict[fx.Node, Any] = {}
        self.output: object = None

    def shape_of(self, place: Place) -> tuple[int, ...]:
        return self.nodes[place.number - 1].shape if place.number else self.shape

    def add(self, node: fx.Node) -> None:
        """Take in the next node of the program. Raises `InputError` for one without bounds."""
        if node.op == "placeholder":
            self.known[node] = self.constants.get(node.name, Place(0))
            return
        args, kwargs = pytree.tree_map_only(fx.Node, self.known.get, (node.args, dict(node.kwargs)))
        leaves = pytree.arg_tree_leaves(*args, **kwargs)
        reads = [each for each in leaves if isinstance(each, Place)]
        if node.op == "output":
            self.output = leaves[0]
        elif not reads:
            target: Any = node.target
            self.known[node] = target(*args, **kwargs)
        elif str(node.target) in SAME and _stays_float(node):
            self.known[node] = reads[0]
        else:
            self._add_step(node, reads, args, kwargs)

    def _add_step(self, node: fx.Node, reads: list[Place], args: Any, kwargs: Any) -> None:
        layer, meta, name = _layer(node), node.meta.get("val"), str(node.target)
        try:
            if name not in RULES or not isinstance(meta, Tensor):
                raise UnboundedError
            if not meta.ndim or meta.shape[0] != BATCH:
                raise UnboundedError("it mixes the images of a batch")
            shape = tuple(int(side) for side in meta.shape[1:])
            operator = RULES[name](View(tuple(map(self.shape_of, reads)), shape), *args, **kwargs)
        except UnboundedError as error:
            why = f" ({error})" if str(error) else ""
            raise InputError(f"no bounds are known of layer {layer}{why}: use smoothing, or another layer") from None
        self.nodes.append(Node(operator, tuple(each.number for each in reads), layer, shape))
        place = Place(len(self.nodes))
        self.known[node] = place
        if name in IN_PLACE:  # whoever has the old value sees the new one
            self.known |= {each: place for each, value in self.known.items() if value == reads[0]}


def _stays_float(node: fx.Node) -> bool:
    meta = node.meta.get("val")
    return not isinstance(meta, Tensor) or meta.dtype in (torch.float32, torch.float64)


def _layer(node: fx.Node) -> str:
    """The name of the layer that a node of the program belongs to, its type, and what it computes."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = stack[-1] if stack else ("", "")
    path = str(path).removeprefix("model").removeprefix(".") or "model"
    function = str(node.target).split(".")[1] if "." in str(node.target) else str(node.target)
    return f"{path} ({str(kind).rpartition('.')[2]}, {function})"
