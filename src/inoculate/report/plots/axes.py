"""Axes and boxes that several figures share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from inoculate.report.plots.style import INK, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Group = tuple[str, Sequence[float], str]  # label, values, colour


def percent_axis(axes: Axes, label: str) -> None:
    """A vertical axis from 0 to 100 %, with lines."""
    axes.set_ylim(-3, 103)
    axes.set_ylabel(label)
    axes.grid(axis="y", color=RULE, lw=0.8, zorder=0)


def box_plot(axes: Axes, groups: Sequence[Group]) -> None:
    """A horizontal box of quartiles per group, with whiskers from the 5th to the 95th percentile."""
    places = range(len(groups), 0, -1)
    drawn = axes.boxplot(
        [list(values) or [float("nan")] for _, values, _ in groups],
        positions=list(places), orientation="horizontal", widths=0.55, whis=(5, 95), showfliers=False,
        patch_artist=True, medianprops={"color": INK, "lw": 1.6},
    )  # fmt: skip
    for number, (_, _, color) in enumerate(groups):
        drawn["boxes"][number].set(facecolor=color, alpha=0.55, edgecolor=color)
        for line in (*drawn["whiskers"][2 * number : 2 * number + 2], *drawn["caps"][2 * number : 2 * number + 2]):
            line.set(color=color)
    axes.set_yticks(list(places), [label for label, _, _ in groups])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", color=RULE, lw=0.8, zorder=0)


def log_axis(axes: Axes, which: str) -> None:
    """A logarithmic axis, `x` or `y`, with plain numbers: 0.01, 0.02, 0.05."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
