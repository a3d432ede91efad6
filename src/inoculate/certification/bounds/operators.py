"""What a network is made of, as its bounds need it: values, intervals, and linear functions passed backwards.

`interval` is sound in the arithmetic of its numbers: each box holds the values of exact arithmetic, and those that the
layer computes with rounding in any order. `backward` takes coefficients (B×S×…) of lower bounds on S functions of the
output, and returns those on the inputs (a list) and what is added (B×S). `span` is `interval` without regard to
rounding. Gradients pass through `span` and `backward`, to the inputs and to the weights.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from inoculate.certification.bounds.box import Box
from inoculate.certification.bounds.span import Span

Passed = tuple[list[Tensor], Tensor]


class Ends(Protocol):
    """The lowest and the highest values (B×…) that can come into a step."""

    @property
    def low(self) -> Tensor: ...

    @property
    def high(self) -> Tensor: ...


class Operator(Protocol):
    """One step of a network.

    `affine` says whether `backward` is exact, `mixes` whether it adds up values, `kinked` whether tighter boxes in
    front of it help.
    """

    @property
    def affine(self) -> bool: ...

    @property
    def mixes(self) -> bool: ...

    @property
    def kinked(self) -> bool: ...

    def value(self, *inputs: Tensor) -> Tensor: ...

    def interval(self, *boxes: Box) -> Box: ...

    def span(self, *spans: Span) -> Span: ...

    def backward(self, weight: Tensor, *boxes: Ends) -> Passed: ...


Kind = TypeVar("Kind", bound=Operator)


def cast(operator: Kind, dtype: torch.dtype, device: torch.device | None = None) -> Kind:
    """The operator with its numbers as `dtype`, on `device` if it is given."""
    values = {field.name: getattr(operator, field.name) for field in fields(operator)}  # type: ignore[arg-type]
    changed = {name: value.to(device, dtype) for name, value in values.items() if isinstance(value, Tensor)}
    return replace(operator, **changed)  # type: ignore[type-var]


def total(weight: Tensor) -> Tensor:
    """The sums (B×S) of B×S×…."""
    return weight.flatten(2).sum(dim=2)


def nothing(weight: Tensor) -> Tensor:
    """Zeros (B×S) for B×S×…."""
    return weight.new_zeros(weight.shape[:2])
