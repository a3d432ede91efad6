"""Progress of a job: bars on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from inoculate.cli.output import print_line, print_table
from inoculate.core.duration import format_duration

if TYPE_CHECKING:
    from inoculate.report.tables.table import Table
    from inoculate.study.cell import Cell
    from inoculate.study.estimate import TimeLeft
    from inoculate.study.measurements import Measurements

INTERVAL = 10.0  # seconds between plain progress lines
_FACTS = {"loss": "loss {:.3f}", "accuracy": "accuracy {:.0%}", "images_per_second": "{:.0f} images/s"}


class Bar:
    """Progress of one piece of work; call it with `(done, total, facts)`."""

    def __init__(self, console: Console, title: str) -> None:
        self.console, self.title = console, title
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.task = self.bars.add_task(title, total=None, facts="")
        self.last_line = time.monotonic()

    def __enter__(self) -> Bar:
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.bars.stop()

    def __call__(self, done: int, total: int, facts: Mapping[str, float]) -> None:
        text = " ".join(form.format(facts[name]) for name, form in _FACTS.items() if name in facts)
        self.bars.update(self.task, completed=done, total=total, facts=text)
        if not self.console.is_terminal and time.monotonic() - self.last_line > INTERVAL:
            self.last_line = time.monotonic()
            remaining = self.bars.tasks[0].time_remaining
            left = "" if remaining is None else f"{format_duration(remaining)} left"
            print_line(self.console, " ".join(filter(None, (f"{self.title}: {done}/{total}", text, left))))


class Steps:
    """Progress of a job of several steps; call it with `(step, done, total)`. One bar after the other, on stderr."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, soft_wrap=True)
        self.bar: Bar | None = None

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, step: str, done: int, total: int) -> None:
        if self.bar is None or self.bar.title != step:
            self.close()
            self.bar = Bar(self.console, step).__enter__()
        self.bar(done, total, {})

    def close(self) -> None:
        """Remove the bar that is shown, if there is one."""
        if self.bar:
            self.bar.__exit__()
            self.bar = None


class Screen:
    """A `StudyObserver` that prints progress with the time left, and the first tables as soon as there are numbers."""

    def __init__(self, console: Console, first: str) -> None:
        """The first tables come with the white-box results of the attack `first` on a standard network."""
        self.console, self.first = console, first
        self.bar: Bar | None = None

    def begin(self, cell: Cell, number: int, total: int, left: TimeLeft | None) -> None:
        """Show the bar of a step."""
        about = "at least" if left and left.incomplete else "about"
        estimate = f", {about} {format_duration(left.seconds)} left" if left and left.seconds else ""
        self.bar = Bar(self.console, f"[{number}/{total}{estimate}] {cell.title}").__enter__()

    def progress(self, done: int, total: int, facts: Mapping[str, float]) -> None:
        """Move the bar of the step."""
        if self.bar:
            self.bar(done, total, facts)

    def end(self, cell: Cell, seconds: float, made: bool, measured: Measurements) -> None:
        """Print the time that a computed step took; after the first attack, print the first tables."""
        from inoculate.report.tables.paper import paper_tables

        title = self.bar.title if self.bar else cell.title
        self.close()
        if not made:
            return
        print_line(self.console, f"{title}: {format_duration(seconds)}")
        if (cell.kind, cell.arm, cell.attack, cell.reading) == ("evaluate", "standard", self.first, "white-box"):
            self.show(paper_tables(measured.rows, measured.surrogates)[:2])

    def close(self) -> None:
        """Remove the bar that is shown, if there is one."""
        if self.bar:
            self.bar.__exit__()
            self.bar = None

    def show(self, tables: Sequence[Table]) -> None:
        """Print tables in full."""
        for table in tables:
            print_table(self.console, table.columns, table.rows, title=table.title, note=table.note)
