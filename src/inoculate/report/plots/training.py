"""Validation accuracy during training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from inoculate.artifacts.names import file_name
from inoculate.report.formatting import percent
from inoculate.report.plots.axes import percent_axis
from inoculate.report.plots.style import drawing_order, style_of
from inoculate.report.plots.svg import Caption, SvgFigure, draw
from inoculate.report.results import arm_order, natural_order
from inoculate.report.run import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def training_figures(
    dataset: str, histories: Mapping[tuple[str, str], History], folder: Path | None = None
) -> list[SvgFigure]:
    """A figure per network, a line per arm; dotted the accuracy under attack, where it was measured."""
    figures = []
    for model in sorted({model for model, _ in histories}, key=natural_order):
        lines = {arm: history for (name, arm), history in histories.items() if name == model and history}

        def plot(axes: Axes, lines: Mapping[str, History] = lines) -> None:
            _plot(axes, lines)

        if lines:
            ends = "; ".join(f"{arm} {percent(h[-1]['val_accuracy'])} percent" for arm, h in lines.items())
            alt = f"{model}: validation accuracy during training, at the end {ends}"
            figures.append(draw(Caption(file_name(dataset, "training", model), model, alt), plot, folder))
    return figures


def _plot(axes: Axes, lines: Mapping[str, History]) -> None:
    arms = sorted(lines, key=arm_order)
    for arm in drawing_order(arms):
        style = style_of(arms, arm)
        dotted = {**style, "lw": 1.2, "ls": ":", "mfc": "white"}
        for key, look in (("val_accuracy", style), ("val_robust", dotted)):
            points = [(entry["update"], 100 * entry[key]) for entry in lines[arm] if key in entry]
            if points:
                axes.plot(*zip(*points, strict=True), ms=4, **look)
    axes.set_xlabel("updates")
    percent_axis(axes, "validation accuracy, %")
