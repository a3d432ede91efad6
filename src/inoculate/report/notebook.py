"""The main figure of a result for a notebook: HTML that needs no style sheet, no script and no other file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inoculate.attribution.explanation import Explanation
from inoculate.core.row import Row
from inoculate.report.html.environment import html_environment
from inoculate.report.html.images import shown_images
from inoculate.report.ladder import Bar, Ladder, ladder_of
from inoculate.report.names import short_names
from inoculate.report.plots.style import PAGE_COLORS
from inoculate.report.results import BEFORE, collect
from inoculate.report.run import hardened_rows

MOST_FIGURES = 6  # datasets and norms
BUDGET = 1_500_000  # bytes of pictures
_TEMPLATES = Path(__file__).with_name("html") / "templates"
_COLORS = {variable: color for color, variable in PAGE_COLORS.items()}


@dataclass(frozen=True)
class _Line:
    """A line of the figure, from the top at `y`: a condition, or a bar of one side in a colour."""

    y: int
    label: str = ""
    note: str = ""
    color: str = ""
    bar: Bar | None = None


def main_figure(source: Iterable[Row] | Explanation) -> str:
    """The main figure as HTML; empty where there is none. All text is escaped.

    Of rows: accuracy from clean images to the strongest attack, for each dataset and norm. Of an explanation: its
    images before and after the attack, with their attributions.
    """
    if isinstance(source, Explanation):
        shown = shown_images([source], BUDGET)
        return _render("notebook_images.html", images=shown) if shown else ""
    rows = [*source]
    if after := [row for row in rows if row.model != BEFORE]:
        rows = hardened_rows(rows, after[0].model) if len(after) < len(rows) else rows
    found = [(results.title, ladder_of(results)) for results in collect(rows)]
    drawn = [(title, ladder) for title, ladder in found if ladder.attacked][:MOST_FIGURES]
    names = short_names(row.model for row in rows)
    return "".join(_render("figure.svg", **_placed(title, ladder, names)) for title, ladder in drawn)


def _placed(title: str, ladder: Ladder, names: dict[str, str]) -> dict[str, Any]:
    """The lines of a figure, each at its place, and what the figure says in words."""
    lines, y, words = [], 24, []
    sides = [(names.get(side.label, side.label), _COLORS.get(side.color, "#0072B2")) for side in ladder.sides]
    for rung in ladder.rungs:
        lines.append(_Line(y, rung.label, rung.note))
        y += 8
        for (label, color), bar in zip(sides, rung.bars, strict=True):
            if bar is not None:
                lines.append(_Line(y, color=color, bar=bar))
                words.append(f"{rung.label}{f', {label}' if len(sides) > 1 else ''}: {100 * bar.accuracy:.1f} %")
                y += 18
        y += 22
    keys = sides if len(sides) > 1 else []
    return {"title": title, "lines": lines, "keys": keys, "top": 22 * len(keys), "height": y, "words": "; ".join(words)}


def _render(template: str, **values: Any) -> str:
    return html_environment(_TEMPLATES).get_template(template).render(**values)
