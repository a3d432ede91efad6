"""What the rules are given for a function of torch: which of its arguments are values of the network, and shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from inoculate.certification.bounds.operators import Operator

BATCH = 11  # images that a network is traced with; no usual number of channels or classes


class UnboundedError(Exception):
    """There are no bounds of a function; the message says why, if it is not unknown."""


@dataclass(frozen=True)
class Place:
    """The output of a node, among the arguments of a function."""

    number: int


@dataclass(frozen=True)
class View:
    """The shapes of what a function reads from nodes and of what it returns, without the batch."""

    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]


Rule = Callable[..., Operator]
