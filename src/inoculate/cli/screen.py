"""Progress of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from inoculate.cli.output import print_line, print_table
from inoculate.cli.progress import Bar, make_bars
from inoculate.core.duration import format_duration
from inoculate.study.cell import Cell

if TYPE_CHECKING:
    from inoculate.report.tables.table import Table
    from inoculate.study.estimate import TimeLeft
    from inoculate.study.measurements import Measurements


class Screen:
    """A `StudyObserver` that prints progress with the time left, and the first tables as soon as there are numbers."""

    def __init__(self, console: Console, first: str) -> None:
        """The first tables come with the white-box results of the attack `first` on a standard network."""
        self.console, self.first = console, first
        self.place, self.bars = make_bars(console), dict[Cell, Bar]()

    def begin(self, cell: Cell, number: int, total: int, left: TimeLeft | None) -> None:
        """Show the bar of a step; several are shown while several are under way."""
        about = "at least" if left and left.incomplete else "about"
        estimate = f", {about} {format_duration(left.seconds)} left" if left and left.seconds else ""
        self._remove(cell)  # it begins again
        self.bars[cell] = Bar(self.console, f"[{number}/{total}{estimate}] {cell.title}", self.place).__enter__()

    def progress(self, cell: Cell, done: int, total: int, facts: Mapping[str, float]) -> None:
        """Move the bar of the step."""
        if cell in self.bars:
            self.bars[cell](done, total, facts)

    def end(self, cell: Cell, seconds: float, made: bool, measured: Measurements) -> None:
        """Print the time that a computed step took; after the first attack, print the first tables."""
        from inoculate.report.tables.paper import paper_tables

        title = self.bars[cell].title if cell in self.bars else cell.title
        self._remove(cell)
        if not made:
            return
        print_line(self.console, f"{title}: {format_duration(seconds)}")
        if (cell.kind, cell.arm, cell.attack, cell.reading) == ("evaluate", "standard", self.first, "white-box"):
            self.show(paper_tables(measured.rows, measured.surrogates)[:2])

    def close(self) -> None:
        """Remove the bars that are shown."""
        for cell in tuple(self.bars):
            self._remove(cell)

    def _remove(self, cell: Cell) -> None:
        if bar := self.bars.pop(cell, None):
            bar.__exit__()

    def show(self, tables: Sequence[Table]) -> None:
        """Print tables in full."""
        for table in tables:
            print_table(self.console, table.columns, table.rows, title=table.title, note=table.note)
