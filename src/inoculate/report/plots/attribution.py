"""Attribution stability: how much attributions change under attack and under noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inoculate.artifacts.names import file_name
from inoculate.attribution.explanation import Explanation
from inoculate.report.fragility import by_model, known
from inoculate.report.plots.axes import Group, box_plot
from inoculate.report.plots.style import GREY, style_of
from inoculate.report.plots.svg import Caption, SvgFigure, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def stability_figures(dataset: str, explanations: Sequence[Explanation], folder: Path | None = None) -> list[SvgFigure]:
    """A figure per network with two boxes per arm: the change under attack and under random noise."""
    figures = []
    for model, arms in by_model(explanations).items():
        groups: list[Group] = []
        words = []
        for arm, each in arms.items():
            color = style_of(list(arms), arm)["color"]
            for what in ("attack", "noise"):
                values = known(each.facts["stability"][what])
                groups.append((f"{arm}\n{what}", list(values), color if what == "attack" else GREY))
                words.append(f"{arm} under {what} {np.median(values):.2f}" if len(values) else f"{arm} unknown")

        def plot(axes: Axes, groups: list[Group] = groups) -> None:
            box_plot(axes, groups)
            axes.set_xlabel("1 − rank correlation (0: unchanged)")

        alt = f"{model}: median change of the attributions, {'; '.join(words)}"
        caption = Caption(file_name(dataset, "attribution-stability", model), model, alt)
        figures.append(draw(caption, plot, folder, size=(3.7, 0.7 + 0.42 * len(groups)), left=1.05))
    return figures
