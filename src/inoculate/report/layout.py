"""A table of text, and how it is written: markdown for people, tidy CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from inoculate.artifacts.files import write_text
from inoculate.report.select import Number

MISSING = "–"
_NAMES = {
    "fgsm": "FGSM", "pgd": "PGD", "bim": "BIM", "mifgsm": "MI-FGSM", "apgd_ce": "APGD-CE", "apgd_dlr": "APGD-DLR",
    "apgd_t": "APGD-T", "fab_t": "FAB-T", "square": "Square", "deepfool": "DeepFool", "carlini_wagner": "C&W",
    "fmn": "FMN", "autoattack": "AutoAttack", "autoattack_binary": "AutoAttack (binary)",
}  # fmt: skip
CSV_COLUMNS = (
    "table", "dataset", "model", "arm", "attack", "norm", "eps", "reading",
    "accuracy", "ci_low", "ci_high", "correct", "n", "seeds", "published",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One number of a table in tidy form. Accuracies lie in [0, 1]; `published` is in percent as printed.

    Means over cells carry no interval: their cells share images, so pooled counts would promise too much.
    """

    dataset: str
    model: str
    arm: str
    attack: str
    norm: str
    eps: str
    reading: str
    accuracy: float
    number: Number | None = None
    published: float | None = None


@dataclass(frozen=True)
class Table:
    """A table ready to print: every cell is text; `entries` holds its numbers for `write_csv`."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    entries: tuple[Entry, ...] = ()


def attack_name(attack: str) -> str:
    """Return the name to print for an attack."""
    return _NAMES.get(attack, attack)


def percent(value: float) -> str:
    """Print a fraction as percent with one decimal."""
    return f"{100 * value:.1f}"


def points(value: float) -> str:
    """Print a difference of fractions as signed percentage points with one decimal."""
    return f"{100 * value + 0.0:+.1f}".replace("-0.0", "+0.0")


def accuracy_cell(number: Number | None, common_n: int | None = None) -> str:
    """Print `95.3 [93.9, 96.4]`, with its n where that differs from the one in the column's header."""
    if number is None:
        return MISSING
    low, high = number.interval
    suffix = "" if number.n == common_n else f" n={number.n:,}"
    return f"{percent(number.accuracy)} [{percent(low)}, {percent(high)}]{suffix}"


def accuracy_column(header: str, numbers: Sequence[Number | None]) -> tuple[str, list[str]]:
    """Return a column's header and cells: n stands in the header when every number shares it, else in the cells."""
    sizes = {number.n for number in numbers if number is not None}
    common = sizes.pop() if len(sizes) == 1 else None
    name = header if common is None else f"{header} (n={common:,})"
    return name, [accuracy_cell(number, common) for number in numbers]


def to_markdown(tables: Iterable[Table]) -> str:
    """Return the tables as GitHub markdown, columns padded so that they read well as plain text too."""
    return "\n".join(_markdown(table) for table in tables)


def _markdown(table: Table) -> str:
    lines = [[_escape(cell) for cell in line] for line in [list(table.columns), *table.rows]]
    widths = [max(3, *(len(line[place]) for line in lines)) for place in range(len(table.columns))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    note = [table.note, ""] if table.note else []
    return "\n".join([f"### {table.title}", "", *note, *text, ""])


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def write_csv(path: str | Path, tables: Iterable[Table]) -> Path:
    """Write every number of the tables in long form, one line each, atomically; `CSV_COLUMNS` are its columns."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in tables:
        writer.writerows(_csv_line(table.title, entry) for entry in table.entries)
    return write_text(Path(path), stream.getvalue())


def _csv_line(title: str, entry: Entry) -> list[str]:
    measured = [f"{entry.accuracy:.6f}", "", "", "", "", ""]
    if entry.number is not None:
        low, high = entry.number.interval
        seeds = " ".join(map(str, entry.number.seeds))
        measured[1:] = [f"{low:.6f}", f"{high:.6f}", str(entry.number.correct), str(entry.number.n), seeds]
    published = "" if entry.published is None else f"{entry.published:.2f}"
    place = [entry.dataset, entry.model, entry.arm, entry.attack, entry.norm, entry.eps, entry.reading]
    return [title, *place, *measured, published]
