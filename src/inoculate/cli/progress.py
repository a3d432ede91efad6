"""What a person sees while a study runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from inoculate.report.tables.paper import paper_tables
from inoculate.report.tables.table import Table
from inoculate.study.cell import Cell
from inoculate.study.estimate import TimeLeft
from inoculate.study.measurements import Measurements

EVERY = 10.0  # seconds between plain progress lines


class Bar:
    """Progress of one piece of work, as a callback: a bar on a terminal, elsewhere a line now and then."""

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
        self.spoke = time.monotonic()

    def __enter__(self) -> Bar:
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.bars.stop()

    def __call__(self, done: int, total: int, facts: Mapping[str, float]) -> None:
        self.bars.update(self.task, completed=done, total=total, facts=_facts(facts))
        if not self.console.is_terminal and time.monotonic() - self.spoke > EVERY:
            self.spoke = time.monotonic()
            left = self.bars.tasks[0].time_remaining
            parts = [f"{self.title}: {done}/{total}", _facts(facts), "" if left is None else f"{duration(left)} to go"]
            text = " ".join(part for part in parts if part)
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class Steps:
    """Progress of an evaluation, as its callback `(what, done, total)`: one bar after the other, on stderr."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, soft_wrap=True)
        self.what, self.bar = "", None  # type: tuple[str, Bar | None]

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self.what or self.bar is None:
            self.close()
            self.what, self.bar = what, Bar(self.console, what).__enter__()
        self.bar(done, total, {})

    def close(self) -> None:
        """Take a bar that is still shown off the screen."""
        if self.bar:
            self.bar.__exit__()
            self.bar = None


class Screen:
    """A `StudyObserver` that prints progress with an estimate, and the first tables as soon as there are numbers."""

    def __init__(self, console: Console, first: str) -> None:
        """The first tables come with the white-box results of the attack `first` on a standard network."""
        self.console, self.first = console, first
        self.bar: Bar | None = None

    def begin(self, cell: Cell, number: int, total: int, left: TimeLeft | None) -> None:
        about = "at least" if left and left.incomplete else "about"
        said = "" if not (left and left.seconds) else f", {about} {duration(left.seconds)} left"
        self.bar = Bar(self.console, f"[{number}/{total}{said}] {cell.title}").__enter__()

    def progress(self, done: int, total: int, facts: Mapping[str, float]) -> None:
        if self.bar:
            self.bar(done, total, facts)

    def end(self, cell: Cell, seconds: float, made: bool, measured: Measurements) -> None:
        title = self.bar.title if self.bar else cell.title
        self.close()
        if not made:
            return
        self.console.print(f"{title}: {duration(seconds)}", markup=False, highlight=False)
        if (cell.kind, cell.arm, cell.attack, cell.reading) == ("evaluate", "standard", self.first, "white-box"):
            self.show(paper_tables(measured.rows, measured.surrogates)[:2])

    def close(self) -> None:
        """Take a bar that is still shown off the screen."""
        if self.bar:
            self.bar.__exit__()
            self.bar = None

    def show(self, tables: list[Table]) -> None:
        """Print tables, whole, however narrow the terminal."""
        for table in tables:
            grid = RichTable(title=table.title, caption=table.note, title_justify="left", caption_justify="left")
            for position, column in enumerate(table.columns):
                grid.add_column(column, justify="left" if position == 0 else "right", overflow="fold")
            for row in table.rows:
                grid.add_row(*row)
            self.console.print(grid)


def duration(seconds: float) -> str:
    """Seconds for a person: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _facts(facts: Mapping[str, float]) -> str:
    known = {"loss": "loss {:.3f}", "accuracy": "accuracy {:.0%}", "images_per_second": "{:.0f} images/s"}
    return " ".join(form.format(facts[name]) for name, form in known.items() if name in facts)
