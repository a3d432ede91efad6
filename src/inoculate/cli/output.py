"""Printing shared by the commands: results on stdout, warnings and notes on stderr."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table


def print_warnings(messages: Iterable[str]) -> None:
    """Print each message as a line `warning: …` on stderr."""
    for message in messages:
        typer.echo(f"warning: {message}", err=True)


def print_note(message: str) -> None:
    """Print a line `note: …` on stderr."""
    typer.echo(f"note: {message}", err=True)


class _LogPrinter(logging.Handler):
    """Prints what the package logs: warnings as warnings, the rest as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        show = print_warnings if record.levelno >= logging.WARNING else print_notes
        show([record.getMessage()])


@contextmanager
def printed_log() -> Iterator[None]:
    """Inside, what the package logs is printed: what was done to weights and images, and what is doubtful."""
    log, handler = logging.getLogger("inoculate"), _LogPrinter()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def print_notes(messages: Iterable[str]) -> None:
    """Print each message as a note."""
    for message in messages:
        print_note(message)


def print_line(console: Console, text: str) -> None:
    """Print text as it is, without markup and without breaking the line."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_table(
    console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str, note: str = ""
) -> None:
    """Print a table of text in full, however narrow the terminal; all columns but the first are numbers."""
    grid = Table(title=title, caption=note or None, title_justify="left", caption_justify="left")
    for place, column in enumerate(columns):
        grid.add_column(column, justify="right" if place else "left", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    console.print(grid)


def print_report(path: Path) -> None:
    """Say where a page was written."""
    typer.echo(f"Report: {path} (open it in a browser)")


def store_in(out: Path | None, store: Path | None) -> Path | None:
    """The folder for finished work: the one that is given, else one in the folder of the results, if there is one."""
    return store or (out and out / "store")


def require_writable_places(files: Iterable[Path | None], folders: Iterable[Path | None]) -> None:
    """Raise `InputError` where one of these, if it is given, cannot be written."""
    from inoculate.artifacts.output import require_writable, require_writable_file

    for file in filter(None, files):
        require_writable_file(file)
    for folder in filter(None, folders):
        require_writable(folder)
