"""How long the rest of a study takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from inoculate.study.cell import Cell

Kind = tuple[str, str, bool]  # kind of cell, attack, whether the arm is the standard one


class TimeLeft(NamedTuple):
    """Seconds that a study still takes; `incomplete` where some kinds of cells have not been timed yet: at least."""

    seconds: float
    incomplete: bool


@dataclass
class Estimate:
    """Time left, from what cells like those still to come have taken in this run.

    The standard arm is no measure for the others, whose trainings and evaluations may take longer.
    `workers` of the cells are made at once.
    """

    cells: Sequence[Cell]
    workers: int = 1
    _seen: dict[Kind, dict[tuple[str, str], float]] = field(default_factory=dict)

    def add(self, cell: Cell, seconds: float) -> None:
        """Take note of how long a cell took to make."""
        self._seen.setdefault(_kind(cell), {})[cell.model, cell.reading] = seconds

    def left(self, number: int) -> TimeLeft | None:
        """For the cells from `number` on; None until something has been timed."""
        guesses = [self._guess(cell) for cell in self.cells[number:]]
        return TimeLeft(sum(each or 0 for each in guesses) / self.workers, None in guesses) if self._seen else None

    def _guess(self, cell: Cell) -> float | None:
        alike = self._seen.get(_kind(cell), {})
        exact = alike.get((cell.model, cell.reading))
        return exact if exact is not None else sum(alike.values()) / len(alike) if alike else None


def _kind(cell: Cell) -> Kind:
    return cell.kind, cell.attack, cell.arm == "standard"
