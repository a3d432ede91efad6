"""The numbers of tables as CSV in long form."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from inoculate.report.tables.table import Entry, Table

COLUMNS = (
    "table", "dataset", "model", "arm", "attack", "norm", "eps", "reading",
    "accuracy", "ci_low", "ci_high", "correct", "n", "seeds", "published",
)  # fmt: skip


def to_csv(tables: Iterable[Table]) -> str:
    """Every number of the tables, one line each, with the columns `COLUMNS`."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for table in tables:
        writer.writerows(_line(table.title, entry) for entry in table.entries)
    return stream.getvalue()


def _line(title: str, entry: Entry) -> list[str]:
    measured = [f"{entry.accuracy:.6f}", "", "", "", "", ""]
    if entry.number is not None:
        low, high = entry.number.interval
        seeds = " ".join(map(str, entry.number.seeds))
        measured[1:] = [f"{low:.6f}", f"{high:.6f}", str(entry.number.correct), str(entry.number.n), seeds]
    published = "" if entry.published is None else f"{entry.published:.2f}"
    place = [entry.dataset, entry.model, entry.arm, entry.attack, entry.norm, entry.eps, entry.reading]
    return [title, *place, *measured, published]
