"""A network as the steps that it is made of: its `forward` need not be a chain."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inoculate.certification.bounds.operators import Operator, cast


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
    def dtype(self) -> torch.dtype:
        """The precision of its numbers."""
        values = (value for node in self.nodes for value in vars(node.operator).values() if isinstance(value, Tensor))
        return next((value.dtype for value in values), torch.float64)

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
