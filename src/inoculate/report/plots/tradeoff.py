"""Clean accuracy against robust accuracy, and the seconds of training that each arm took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from inoculate.artifacts.names import file_name
from inoculate.report.formatting import attack_name, percent
from inoculate.report.plots.style import INK, METHOD, RULE, style_of
from inoculate.report.plots.svg import Caption, SvgFigure, draw
from inoculate.report.results import BEFORE, Results
from inoculate.study.arm_names import ARMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (7.4, 4.2)  # inches
LARGEST = 420.0  # area of the marker of the longest training, in square points
SPACING = 0.055  # of the axis: the least distance between two labels


class Point(NamedTuple):
    """One arm: two accuracies in percent, and the seconds of its training (0: unknown)."""

    arm: str
    clean: float
    robust: float
    seconds: float


def tradeoff_figures(
    results: Results, seconds: Mapping[tuple[str, str], float], folder: Path | None = None
) -> list[SvgFigure]:
    """A figure per network trained by several methods; `seconds` of training by (model, arm).

    Robust is the accuracy under the strongest of the white-box attacks that most arms were evaluated with, at its
    largest eps. A line joins the Pareto front of both accuracies.
    """
    figures = []
    for model in results.models if set(results.arms) - {BEFORE, *ARMS} else []:
        attack, points = _strongest(results, model, seconds)
        if len(points) < 3:
            continue
        words = "; ".join(f"{p.arm} {p.clean:.1f} and {p.robust:.1f} percent in {p.seconds:.0f} s" for p in points)
        alt = f"{model}: accuracy on clean images and under {attack}, {words}"
        caption = Caption(file_name(results.dataset, results.norm, "tradeoff", model), model, alt)
        figures.append(draw(caption, partial(_plot, points=points, attack=attack), folder, size=SIZE))
    return figures


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other exceeds in both accuracies, by clean accuracy."""
    return sorted(
        (p for p in points if not any(_dominates(other, p) for other in points)), key=lambda p: (p.clean, -p.robust)
    )


def _dominates(one: Point, other: Point) -> bool:
    return one[1:3] != other[1:3] and one.clean >= other.clean and one.robust >= other.robust


def _strongest(results: Results, model: str, seconds: Mapping[tuple[str, str], float]) -> tuple[str, list[Point]]:
    """The attack with the lowest mean accuracy, of those that most arms were evaluated with; and its points."""
    found: list[tuple[int, float, str, list[Point]]] = []
    for attack in results.attacks:
        eps = results.epsilons(attack)[-1]
        points = [
            Point(arm, 100 * clean.accuracy, 100 * number.accuracy, seconds.get((model, arm), 0.0))
            for arm in results.arms
            if (clean := results.clean(model, arm)) and (number := results.find(model, arm, attack, eps, "white-box"))
        ]
        if points:
            mean = sum(point.robust for point in points) / len(points)
            found.append((-len(points), mean, f"{attack_name(attack)}, eps {eps:.3g}", points))
    return min(found)[2:] if found else ("", [])


def _plot(axes: Axes, points: Sequence[Point], attack: str) -> None:
    front, longest = pareto_front(points), max(point.seconds for point in points) or 1.0
    x, y = [p.clean for p in front], [p.robust for p in front]
    axes.plot(x, y, color=INK, lw=1, ls=(0, (4, 3)), alpha=0.5, zorder=1)
    for point in points:
        color = style_of(ARMS, point.arm)["color"] if point.arm in ARMS else METHOD
        area = 30 + LARGEST * point.seconds / longest
        axes.scatter([point.clean], [point.robust], s=area, color=color, alpha=0.6, edgecolor=INK, lw=0.8, zorder=3)
    axes.set_xlabel("accuracy on clean images, %")
    axes.set_ylabel(f"accuracy under {attack}, %")
    axes.margins(x=0.08, y=0.1)
    axes.grid(color=RULE, lw=0.8, zorder=0)
    _label(axes, points)


def _label(axes: Axes, points: Sequence[Point]) -> None:
    """Write name, robust accuracy and minutes of every point at the right, joined to the point by a line."""
    (low, high), (below, above) = axes.get_xlim(), axes.get_ylim()
    axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= high])
    axes.set_xlim(low, high + 0.55 * (high - low))
    axes.set_ylim(below, above)
    gap = SPACING * (above - below)
    places = spread([point.robust for point in points], gap, below + gap / 2, above - gap / 2)
    for point, place in zip(points, places, strict=True):
        time = f", {point.seconds / 60:.1f} min" if point.seconds else ""
        axes.annotate(
            f"{point.arm}: {percent(point.robust / 100)} %{time}", (point.clean, point.robust),
            (high + 0.03 * (high - low), place), fontsize=9, va="center",
            arrowprops={"arrowstyle": "-", "color": INK, "lw": 0.5, "alpha": 0.4, "relpos": (0, 0.5)},
        )  # fmt: skip


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near `values` and in their order, at least `gap` apart, between `low` and `high` as far as they fit."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    places, floor, ceiling = [0.0] * len(values), low, high
    for i in order:
        places[i] = max(values[i], floor)
        floor = places[i] + gap
    for i in reversed(order):
        places[i] = min(places[i], ceiling)
        ceiling = places[i] - gap
    return places
