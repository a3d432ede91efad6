"""Who is told how a study goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from inoculate.study.cell import Cell
from inoculate.study.estimate import TimeLeft
from inoculate.study.measurements import Measurements


class StudyObserver(Protocol):
    """Follows a study: for every cell `begin`, any number of `progress`, and one `end`.

    An executor with several workers begins cells before others end; a cell whose worker was lost begins again.
    """

    def begin(self, cell: Cell, number: int, total: int, left: TimeLeft | None) -> None:
        """The cell `number` (from 1) of `total` begins."""

    def progress(self, cell: Cell, done: int, total: int, facts: Mapping[str, float]) -> None:
        """The cell has done so many of its units, such as updates or images; `facts` are shown beside them."""

    def end(self, cell: Cell, seconds: float, made: bool, measured: Measurements) -> None:
        """The cell is done: `made` now, or found in the store. `measured` is what the study has measured so far."""


class Silent:
    """A `StudyObserver` that does nothing."""

    def begin(self, cell: Cell, number: int, total: int, left: TimeLeft | None) -> None: ...

    def progress(self, cell: Cell, done: int, total: int, facts: Mapping[str, float]) -> None: ...

    def end(self, cell: Cell, seconds: float, made: bool, measured: Measurements) -> None: ...
