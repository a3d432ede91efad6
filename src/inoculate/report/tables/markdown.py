"""Tables as GitHub markdown."""

from __future__ import annotations

from collections.abc import Iterable

from inoculate.report.tables.table import Table


def to_markdown(tables: Iterable[Table]) -> str:
    """The tables as GitHub markdown, with columns padded so that they are readable as plain text too."""
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
