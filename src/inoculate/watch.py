"""What a person sees while a study runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from inoculate.report.layout import Table
from inoculate.report.tables import paper_tables
from inoculate.study.plan import Cell
from inoculate.study.run import Run

EVERY = 10.0  # seconds between plain progress lines


class Screen:
    """A `Watcher` that prints progress with an estimate, and the first tables as soon as they can be read."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars: Progress | None = None
        if console.is_terminal:
            self.bars = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[facts]}"), TimeElapsedColumn(), TimeRemainingColumn(), console=console,
            )  # fmt: skip
        self.task: TaskID | None = None
        self.cell = ""
        self.number = (0, 0)
        self.spoke = time.monotonic()
        self.made = 0

    def begin(self, cell: Cell, number: int, total: int, seconds_left: float | None) -> None:
        self.cell, self.number = cell.title, (number, total)
        left = "" if seconds_left is None else f", about {duration(seconds_left)} left"
        self.head = f"[{number}/{total}{left}]"
        if self.bars:
            self.bars.start()
            self.task = self.bars.add_task(f"{self.head} {self.cell}", total=None, facts="")

    def progress(self, done: int, total: int, facts: Mapping[str, float]) -> None:
        text = _facts(facts)
        if self.bars and self.task is not None:
            self.bars.update(self.task, completed=done, total=total, facts=text)
        elif time.monotonic() - self.spoke > EVERY:
            self.spoke = time.monotonic()
            self.console.print(
                f"{self.head} {self.cell}: {done}/{total} {text}".rstrip(), markup=False, highlight=False
            )

    def end(self, cell: Cell, seconds: float, made: bool, run: Run) -> None:
        if self.bars and self.task is not None:
            self.bars.remove_task(self.task)
            self.task = None
        if not made:
            return
        self.made += 1
        self.spoke = time.monotonic()
        self.console.print(f"{self.head} {cell.title}: {duration(seconds)}", markup=False, highlight=False)
        if (cell.arm, cell.attack, cell.reading) == (
            "standard",
            run.study.transfer,
            "white-box",
        ) and cell.kind == "evaluate":
            self.show(paper_tables(run.rows, run.surrogates)[:2])  # the first numbers, long before the study is done

    def close(self) -> None:
        if self.bars:
            self.bars.stop()

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
