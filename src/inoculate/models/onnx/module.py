"""An ONNX graph as a differentiable torch module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.models.onnx.nodes import Graph, Node
from inoculate.models.onnx.operators.layers import layer_for
from inoculate.models.onnx.operators.registry import OPERATORS


@dataclass(frozen=True)
class Step:
    """One node as it is run: by the child module `layer`, else by the operator's function.

    `finished` are the values that no later step needs.
    """

    node: Node
    layer: str | None
    finished: tuple[str, ...]


class OnnxModule(nn.Module):
    """The nodes of a `Graph`, run one after the other on torch tensors: the graph's one input → its one output.

    Constants of floating point are frozen parameters, so that they move with the module. Whole numbers, which are
    shapes and places, stay on the CPU. Convolutions of images are `nn.Conv2d`, a BatchNorm after one is
    `nn.BatchNorm2d`.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        graph = _folded(graph)
        self.input, self.output = graph.input, graph.output
        self.whole_numbers = {name: each for name, each in graph.constants.items() if not each.is_floating_point()}
        weights = {
            name: nn.Parameter(each, requires_grad=False)
            for name, each in graph.constants.items()
            if each.is_floating_point()
        }
        layers = self._add_layers(graph, weights)
        needed = {name for node in graph.nodes if node.outputs[0] not in layers for name in node.inputs}
        self.parameter_names: dict[str, str] = {}
        for name in weights.keys() & (needed | {graph.output}):
            self.parameter_names[name] = f"weight{len(self.parameter_names)}"
            self.register_parameter(self.parameter_names[name], weights[name])
        last = {name: number for number, node in enumerate(graph.nodes) for name in node.inputs}
        self.steps = [
            Step(node, layers.get(node.outputs[0]), tuple({
                name for name in (*node.inputs, *node.outputs) if last.get(name, -1) <= number and name != graph.output
            }))
            for number, node in enumerate(graph.nodes)
        ]  # fmt: skip

    def _add_layers(self, graph: Graph, weights: Mapping[str, nn.Parameter]) -> dict[str, str]:
        """Make the nodes that are plain layers children, in order; returns their names by the nodes' first outputs."""
        names: dict[str, str] = {}
        for node in graph.nodes:
            if node.op == "BatchNormalization" and not names.get(node.inputs[0], "").startswith("conv"):
                continue  # of features: `nn.BatchNorm2d` takes images only
            layer = layer_for(node, [weights.get(name) for name in node.inputs[1:] if name])
            if layer is not None:
                names[node.outputs[0]] = f"{'conv' if node.op == 'Conv' else 'norm'}{len(names)}"
                self.add_module(names[node.outputs[0]], layer)
        return names

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Tensor] = {self.input: x}
        constants = self.whole_numbers | {name: self._parameters[own] for name, own in self.parameter_names.items()}
        for step in self.steps:
            if step.layer is not None:
                found: Any = self._modules[step.layer](values[step.node.inputs[0]])  # type: ignore[misc]
            else:
                inputs = [values.get(name, constants.get(name)) if name else None for name in step.node.inputs]
                found = OPERATORS[step.node.op](step.node, *inputs)
            values.update(zip(step.node.outputs, found if isinstance(found, tuple) else (found,), strict=False))
            for name in step.finished:
                values.pop(name, None)
        return values.get(self.output, constants.get(self.output))  # type: ignore[return-value]


def _folded(graph: Graph) -> Graph:
    """The graph with what is computed from constants alone computed once."""
    constants, nodes = dict(graph.constants), []
    for node in graph.nodes:
        if all(name in constants for name in node.inputs if name):
            function: Callable[..., Any] = OPERATORS[node.op]
            with torch.no_grad():
                found = function(node, *(constants[name] if name else None for name in node.inputs))
            found = found if isinstance(found, tuple) else (found,)
            constants.update({name: each.clone() for name, each in zip(node.outputs, found, strict=False)})
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.inputs} | {graph.output}
    return Graph(graph.input, graph.output, tuple(nodes), {name: constants[name] for name in used & constants.keys()})
