"""Every network of a run by its median margin and gradient norm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from inoculate.attribution.explanation import Explanation
from inoculate.report import published
from inoculate.report.fragility import fragility_of, median
from inoculate.report.plots.axes import log_axis
from inoculate.report.plots.style import INK, style_of
from inoculate.report.plots.svg import Caption, SvgFigure, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^vP*X"


class _Point(NamedTuple):
    dataset: str
    model: str
    arm: str
    gradient: float
    margin: float


def landscape_figure(explanations: Sequence[Explanation], folder: Path | None = None) -> SvgFigure | None:
    """Median margin against median gradient norm, with lines of equal estimated eps; None for fewer than two."""
    measured = [(each.key, values) for each in explanations if (values := fragility_of(each))]
    points = [_Point(*key, median(values, "gradient_norm"), median(values, "margin")) for key, values in measured]
    points = [point for point in points if point.gradient > 0 and point.margin > 0]
    if len(points) < 2:
        return None
    words = "; ".join(
        f"{published.title(p.dataset)} {p.model} {p.arm}: margin {p.margin:.3g}, gradient norm {p.gradient:.3g}"
        for p in points
    )
    caption = Caption("landscape", "Margin against gradient norm", f"Medians: {words}")
    return draw(caption, lambda axes: _plot(axes, points), folder, size=(5.6, 3.6))


def _plot(axes: Axes, points: Sequence[_Point]) -> None:
    from matplotlib.lines import Line2D

    datasets = list(dict.fromkeys(point.dataset for point in points))
    arms = list(dict.fromkeys(point.arm for point in points))
    markers = {name: _MARKERS[place % len(_MARKERS)] for place, name in enumerate(datasets)}
    for point in points:
        color = style_of(arms, point.arm)["color"]
        marker = markers[point.dataset]
        axes.plot([point.gradient], [point.margin], ms=8, ls="", alpha=0.85, marker=marker, color=color)
    axes.set(xscale="log", yscale="log")
    axes.set(xlim=(min(p.gradient for p in points) / 2, max(p.gradient for p in points) * 2))
    axes.set(ylim=(min(p.margin for p in points) / 2, max(p.margin for p in points) * 2))
    log_axis(axes, "x")
    log_axis(axes, "y")
    _plot_equal_eps(axes)
    axes.set_xlabel("median gradient norm (logits per unit of eps)")
    axes.set_ylabel("median margin (logits)")
    handles = [
        Line2D([], [], ls="", color=INK, marker=marker, label=published.title(name)) for name, marker in markers.items()
    ]
    axes.legend(handles=handles, frameon=False, fontsize=9.5, loc="best")


def _plot_equal_eps(axes: Axes) -> None:
    """Lines on which margin / gradient norm is the same, with its value at their right end."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    for eps in (digit * 10.0**power for power in range(-5, 1) for digit in (1, 2, 5)):
        axes.plot((left, right), [eps * left, eps * right], color=INK, lw=0.6, ls=(0, (1, 3)), zorder=0)
        if low < eps * right < high:
            place = (right, eps * right)
            axes.annotate(f"eps {eps:g}", place, (0, 2), textcoords="offset points", ha="right", fontsize=9.5)
    axes.set(xlim=(left, right), ylim=(low, high))
