"""Executors: ways to work through the cells of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from inoculate.study.cell import Cell
from inoculate.study.plan import Plan

T = TypeVar("T")


class Executor(Protocol):
    """Calls `work` once for every cell of a plan, after it has returned for all cells that the cell depends on.

    `begin` is called when a cell starts, in the process of the caller. Yields each cell and what `work` returned, as
    soon as it is done. `work` may run in other processes that reach the same store.
    """

    def __call__(
        self, plan: Plan, work: Callable[[Cell], T], begin: Callable[[Cell], None]
    ) -> Iterator[tuple[Cell, T]]: ...


def serial(plan: Plan, work: Callable[[Cell], T], begin: Callable[[Cell], None]) -> Iterator[tuple[Cell, T]]:
    """One cell after the other, in the plan's order."""
    for cell in plan:
        begin(cell)
        yield cell, work(cell)
