"""Margins, gradient norms and the eps that breaks each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inoculate.artifacts.names import file_name
from inoculate.attribution.explanation import Explanation
from inoculate.report.fragility import (
    Fragility,
    by_model,
    estimated_and_measured,
    fragility_of,
    known,
    median,
    of_correct_images,
    share_correct,
)
from inoculate.report.plots.axes import box_plot, log_axis, percent_axis
from inoculate.report.plots.style import INK, drawing_order, style_of
from inoculate.report.plots.svg import Caption, SvgFigure, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLES = {
    "margin": "Logit margin of correctly classified images (higher is safer)",
    "gradient_norm": "Gradient norm: how much a step of size 1 can change the margin (lower is safer)",
    "survival": "Share of images still classified correctly at each eps",
    "estimate": "Estimated eps (margin / gradient norm) against the measured eps that breaks each image",
}
_BOXES = {"margin": "margin", "gradient_norm": "gradient norm"}


@dataclass(frozen=True)
class _Network:
    """One network: its arms, and the values of those that were measured."""

    model: str
    arms: Sequence[str]
    values: Mapping[str, Fragility]


def fragility_figures(
    dataset: str, explanations: Sequence[Explanation], folder: Path | None = None
) -> list[tuple[str, list[SvgFigure]]]:
    """Per kind of value, a title and a figure for each network."""
    networks = [
        _Network(model, list(arms), {arm: values for arm, each in arms.items() if (values := fragility_of(each))})
        for model, arms in by_model(explanations).items()
    ]
    networks = [network for network in networks if network.values]
    return [
        (title, [_figure(network, kind, file_name(dataset, kind, network.model), folder) for network in networks])
        for kind, title in (_TITLES.items() if networks else ())
    ]


def _figure(network: _Network, kind: str, name: str, folder: Path | None) -> SvgFigure:
    model = network.model
    if kind in _BOXES:
        groups = [
            (arm, list(of_correct_images(values, kind)), style_of(network.arms, arm)["color"])
            for arm, values in network.values.items()
        ]
        words = "; ".join(f"{arm} {np.median(values):.3g}" for arm, values, _ in groups if values)
        caption = Caption(name, model, f"{model}: median {_BOXES[kind]}, {words}")
        size = (3.7, 0.7 + 0.4 * len(groups))
        return draw(caption, lambda axes: box_plot(axes, groups), folder, size=size, left=1.05)
    words = "; ".join(f"{arm} {median(values, 'measured'):.3g}" for arm, values in network.values.items())
    caption = Caption(name, model, f"{model}: median eps that breaks correctly classified images, {words}")
    plot = _plot_survival if kind == "survival" else _plot_estimates
    return draw(caption, lambda axes: plot(axes, network), folder)


def _plot_survival(axes: Axes, network: _Network) -> None:
    measured = {arm: values["measured"] for arm, values in network.values.items()}
    reach = max((np.quantile(broken, 0.95) for each in measured.values() if len(broken := known(each))), default=1)
    for arm in drawing_order(list(measured)):
        places = np.concatenate([[0.0], np.sort(known(measured[arm]))])
        shares = [100 * share_correct(measured[arm], place) for place in places]
        style = {key: value for key, value in style_of(network.arms, arm).items() if key != "marker"}
        axes.step(places, shares, where="post", **style)
    axes.set_xlim(0, reach * 1.02 or 1)
    axes.set_yticks(range(0, 101, 25))
    axes.set_xlabel("eps")
    percent_axis(axes, "correctly classified, %")


def _plot_estimates(axes: Axes, network: _Network) -> None:
    ends: list[float] = []
    for arm in drawing_order(list(network.values)):
        pairs = estimated_and_measured(network.values[arm])
        if len(pairs):
            style = style_of(network.arms, arm)
            axes.plot(*pairs.T, ls="", marker=style["marker"] or "o", ms=3.5, alpha=0.6, mew=0, color=style["color"])
            ends += [pairs.min(), pairs.max()]
    if ends:
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color=INK, lw=0.8, ls=(0, (4, 3)), zorder=0)
    log_axis(axes, "x")
    log_axis(axes, "y")
    axes.set_xlabel("estimated eps")
    axes.set_ylabel("measured eps")
