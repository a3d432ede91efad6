"""Accuracy against eps: one panel per network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inoculate.artifacts.names import file_name
from inoculate.core.row import UNION
from inoculate.report.formatting import attack_name, percent
from inoculate.report.plots.style import RULE, drawing_order, style_of
from inoculate.report.plots.svg import Caption, SvgFigure, draw
from inoculate.report.results import Measurement, Results, View

if TYPE_CHECKING:
    from matplotlib.axes import Axes

READINGS = {"white-box": "crafted anew on each network", "replayed": "crafted before its retraining"}


def accuracy_figures(results: Results, folder: Path | None = None) -> list[tuple[str, list[SvgFigure]]]:
    """Per reading, a title and a figure for each network."""
    if not results.attacks or results.norm == UNION:  # which has no sizes to draw a line over
        return []
    main, groups = results.attacks[0], []
    for reading, words in READINGS.items():
        view = View(main, reading)
        if is_measured(results, view):
            figures = [_figure(results, model, view, folder) for model in results.models]
            groups.append((f"{attack_name(main)} images {words} ({reading})", figures))
    return groups


def _figure(results: Results, model: str, view: View, folder: Path | None) -> SvgFigure:
    def plot(axes: Axes) -> None:
        plot_accuracy(axes, results, model, view)
        axes.set_xlabel("eps (0: clean)")
        axes.set_ylabel("accuracy, %")

    largest, ends = max(results.epsilons(view.attack)), []
    for arm in results.arms:
        clean, last = results.clean(model, arm), results.find(model, arm, view.attack, largest, view.reading)
        if clean and last:
            ends.append(f"{arm} from {percent(clean.accuracy)} to {percent(last.accuracy)} percent")
    where = f"{attack_name(view.attack)} at eps {largest:.3g}, {READINGS[view.reading]}"
    alt = f"{model}: accuracy from clean images to {where}: {'; '.join(ends)}"
    name = file_name(results.dataset, results.norm, "accuracy", view.reading, model)
    title = f"{model} (surrogate)" if model == results.surrogate else model
    return draw(Caption(name, title, alt), plot, folder)


def is_measured(results: Results, view: View) -> bool:
    """Whether a reading has an accuracy of its own: the replayed one of the standard arm is its white-box one."""
    arms = results.arms if view.reading == "white-box" else [arm for arm in results.arms if arm != "standard"]
    return any(
        results.find(model, arm, view.attack, eps, view.reading)
        for model in results.models
        for arm in arms
        for eps in results.epsilons(view.attack)
    )


def plot_accuracy(axes: Axes, results: Results, model: str, view: View) -> None:
    """Draw one network's accuracies: a line and a band per arm, PGD dotted."""
    for layer, arm in enumerate(drawing_order(results.arms), start=3):
        _plot_arm(axes, results, (model, arm), view, layer)
    epsilons = [0.0, *results.epsilons(view.attack)]
    step = -(-len(epsilons) // 6)  # at most six labels; the largest eps keeps its own
    ticks = epsilons[::-step][::-1]
    axes.set_xticks(ticks, [f"{eps:.3g}" for eps in ticks])
    axes.set_ylim(-3, 103)
    axes.set_yticks(range(0, 101, 25))
    axes.grid(axis="y", color=RULE, lw=0.8, zorder=0)


def _plot_arm(axes: Axes, results: Results, side: tuple[str, str], view: View, layer: int) -> None:
    style = style_of(results.arms, side[1])
    curve = _curve(results, side, view)
    if not curve:
        return
    x, y = [eps for eps, _ in curve], [100 * number.accuracy for _, number in curve]
    axes.plot(x, y, ms=5, zorder=layer, **style)
    if not style["marker"]:  # a control: no band and no PGD
        return
    bounds = [number.interval for _, number in curve]
    low, high = [100 * pair[0] for pair in bounds], [100 * pair[1] for pair in bounds]
    axes.fill_between(x, low, high, color=style["color"], alpha=0.18, lw=0, zorder=2)
    if view.reading == "white-box" and "pgd" in results.attacks and view.attack != "pgd":
        pgd = [(eps, number) for eps, number in _curve(results, side, View("pgd", view.reading)) if eps > 0]
        dotted = {**style, "lw": 1.2, "ls": ":", "mfc": "white", "ms": 5, "zorder": layer}
        axes.plot([eps for eps, _ in pgd], [100 * number.accuracy for _, number in pgd], **dotted)


def _curve(results: Results, side: tuple[str, str], view: View) -> Sequence[tuple[float, Measurement]]:
    """The measured points of a line, from eps 0 (clean accuracy) on; empty unless the attack itself was measured."""
    points = [(eps, results.find(*side, view.attack, eps, view.reading)) for eps in results.epsilons(view.attack)]
    start = [(0.0, results.clean(*side))] if any(number for _, number in points) else []
    return [(eps, number) for eps, number in start + points if number]
