"""How rows are shown: as columns for a data frame, and as an HTML table for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from html import escape
from typing import Any, Protocol, TypeVar

from inoculate.core.row import Row


class _HasAccuracy(Protocol):
    @property
    def accuracy(self) -> float: ...


T = TypeVar("T", bound=_HasAccuracy)

_LABELS = ("dataset", "model", "arm", "protocol", "seed")  # shown only where the rows differ in them


def name_of(row: Row) -> str:
    """Attack, norm, mask and eps of a row, a union and its threats, a corruption and its severity, or `clean`."""
    return "clean" if row.attack == "none" else " ".join(filter(None, (row.attack, row.space, size_of(row))))


def size_of(row: Row) -> str:
    """How strong the attack of a row is: its eps, the threats of a union, a corruption's severity, or the movements."""
    if row.threats:
        return f"of {row.threats}"
    if row.has_eps:
        return f"eps {row.eps:.4g}"
    return row.movements or (f"severity {row.severity}" if row.severity else "")


def early_termination_words(row: Row) -> str:
    """What the audit of early termination says of a row; empty where no run can have been ended early."""
    if row.hidden is None:
        return ""
    hidden = f"at most {100 * row.hidden:.1f} points" if row.hidden else "nothing"
    return f"early termination hides {hidden} ({row.audited_broken} of {row.audited} fell under the full budget)"


def hardest(found: Sequence[T]) -> T:
    """The lowest accuracy; of equal ones the last, for attacks are listed from weak to strong."""
    return min(reversed(found), key=lambda each: each.accuracy)


def table_of(rows: Iterable[Row]) -> dict[str, list[Any]]:
    """The fields of the rows as columns of equal length: `pandas.DataFrame(table_of(rows))`."""
    rows = list(rows)
    return {field.name: [getattr(row, field.name) for row in rows] for field in fields(Row)}


class HasRows:
    """A result that is read as the sequence of its `rows`."""

    rows: Sequence[Row]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Row:
        return self.rows[place]

    def table(self) -> dict[str, list[Any]]:
        """The rows as columns: `pandas.DataFrame(found.table())`."""
        return table_of(self.rows)


def html_of(rows: Iterable[Row], title: str = "") -> str:
    """An HTML table of the rows: attack, norm, eps, accuracy in percent with its 95 % interval, and n.

    Dataset, model, arm, protocol and seed are shown only where the rows differ in them. All text is escaped.
    """
    rows = list(rows)
    labels = [name for name in _LABELS if len({getattr(row, name) for row in rows}) > 1]
    head = [*labels, "attack", "norm", "eps", "accuracy", "95 % interval", "n"]
    table = []
    for row in rows:
        clean = row.attack == "none"
        eps = "" if clean else size_of(row).removeprefix("eps ").removeprefix("of ")
        interval = f"{row.ci_low:.1%} to {row.ci_high:.1%}"
        cells = [*(getattr(row, name) for name in labels), "clean" if clean else row.attack, "" if clean else row.space]
        table.append([*cells, eps, f"{row.accuracy:.1%}", interval, row.n])
    return html_table(head, table, title)


def html_table(head: Iterable[object], rows: Iterable[Iterable[object]], title: str = "") -> str:
    """An HTML table with a line of headings and, if there is a title, a caption. All text is escaped."""
    lines = [_line("th", head), *(_line("td", cells) for cells in rows)]
    caption = f"<caption>{escape(title)}</caption>\n" if title else ""
    return f"<table>\n{caption}" + "\n".join(lines) + "\n</table>"


def _line(tag: str, cells: Iterable[object]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"
