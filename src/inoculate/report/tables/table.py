"""A table of text, with the numbers behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inoculate.report.formatting import MISSING, percent
from inoculate.report.results import Measurement


@dataclass(frozen=True)
class Entry:
    """One number of a table. Accuracies lie in [0, 1]; `published` is in percent, as the paper prints it.

    Means over cells carry no interval: their cells share images, so that pooled counts would make it too narrow.
    """

    dataset: str
    model: str
    arm: str
    attack: str
    norm: str
    eps: str
    reading: str
    accuracy: float
    number: Measurement | None = None
    published: float | None = None


@dataclass(frozen=True)
class Table:
    """A table ready to print: every cell is text; `entries` holds its numbers for `to_csv`."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    entries: tuple[Entry, ...] = ()


def is_summary(row: Sequence[str]) -> bool:
    """Whether a row sums up those above it."""
    return row[0] in ("mean", "gain over standard")


def accuracy_cell(number: Measurement | None, common_n: int | None = None) -> str:
    """An accuracy as `95.3 [93.9, 96.4]`, with its n where that differs from the one in the column's header."""
    if number is None:
        return MISSING
    low, high = number.interval
    suffix = "" if number.n == common_n else f" n={number.n:,}"
    return f"{percent(number.accuracy)} [{percent(low)}, {percent(high)}]{suffix}"


def accuracy_column(header: str, numbers: Sequence[Measurement | None]) -> tuple[str, list[str]]:
    """A column's header and cells; n stands in the header where every number shares it, else in the cells."""
    sizes = {number.n for number in numbers if number is not None}
    common = sizes.pop() if len(sizes) == 1 else None
    name = header if common is None else f"{header} (n={common:,})"
    return name, [accuracy_cell(number, common) for number in numbers]
