"""Progress of a job: bars on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from inoculate.cli.output import print_line
from inoculate.core.duration import format_duration

INTERVAL = 10.0  # seconds between plain progress lines
_FACTS = {"loss": "loss {:.3f}", "accuracy": "accuracy {:.0%}", "images_per_second": "{:.0f} images/s"}


def make_bars(console: Console) -> Progress:
    """An empty place for bars, which are removed when they are done."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


class Bar:
    """Progress of one piece of work; call it with `(done, total, facts)`. Several can share the `bars` they are in."""

    def __init__(self, console: Console, title: str, bars: Progress | None = None) -> None:
        self.console, self.title = console, title
        self.bars = bars or make_bars(console)
        self.task = self.bars.add_task(title, total=None, facts="")
        self.last_line = time.monotonic()

    def __enter__(self) -> Bar:
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.remove_task(self.task)
        if self.console.is_terminal and not self.bars.tasks:
            self.bars.stop()

    def __call__(self, done: int, total: int, facts: Mapping[str, float]) -> None:
        text = " ".join(form.format(facts[name]) for name, form in _FACTS.items() if name in facts)
        self.bars.update(self.task, completed=done, total=total, facts=text)
        if not self.console.is_terminal and time.monotonic() - self.last_line > INTERVAL:
            self.last_line = time.monotonic()
            remaining = next(each.time_remaining for each in self.bars.tasks if each.id == self.task)
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
