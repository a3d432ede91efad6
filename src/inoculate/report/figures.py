"""Accuracy against eps, one panel per network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoculate.artifacts.files import write_file
from inoculate.core.row import Row
from inoculate.report import published
from inoculate.report.layout import attack_name
from inoculate.report.select import Number, Results, collect

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers; every arm has a marker of its own as well.
_STYLES: dict[str, dict[str, Any]] = {
    "standard": {"color": "#D55E00", "marker": "o", "lw": 2.0},
    "augmented": {"color": "#0072B2", "marker": "s", "lw": 2.0},
    "transferred": {"color": "#009E73", "marker": "^", "lw": 2.4},
    "duplicates": {"color": "#5F5F5F", "marker": "", "lw": 1.2, "ls": (0, (5, 2))},
    "noise": {"color": "#8F8F8F", "marker": "", "lw": 1.2, "ls": (0, (2, 1.5))},
}
_SPARE = ("#CC79A7", "#E69F00", "#56B4E9", "#000000")
# The page has its own shade of each colour, for light and for dark.
COLORS = {str(style["color"]): f"var(--{arm})" for arm, style in _STYLES.items()} | {
    color: f"var(--spare-{number})" for number, color in enumerate(_SPARE)
}
LABELS = {
    "standard": "standard training",
    "augmented": "augmentation alone",
    "transferred": "transfer training",
    "duplicates": "control: clean copies",
    "noise": "control: random noise",
}
_ROWS = {
    "white-box": "crafted on the network\nas it is (white-box)",
    "replayed": "crafted on it before its\nretraining (replayed)",
}
_LOOK: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "svg.hashsalt": "inoculate",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def accuracy_against_eps(
    rows: Iterable[Row], dataset: str, folder: str | Path, surrogate: Mapping[str, str] | None = None
) -> list[Path]:
    """Draw the main attack's accuracy (percent) against eps for every network of a dataset; return the files.

    Upper panels white-box with PGD dotted, lower panels replayed; bands are 95 % Wilson intervals, eps 0 is clean
    accuracy. One PNG and one SVG per norm; a norm without an attack row draws nothing.
    """
    paths: list[Path] = []
    for results in collect((row for row in rows if row.dataset == dataset), surrogate):
        if not results.attacks:
            continue
        norm = "" if results.norm == "linf" else f"-{results.norm}"
        stem = re.sub(r"[^\w.-]+", "_", dataset).strip("._") or "dataset"
        paths += _save(_draw(results), Path(folder) / f"{stem}{norm}-accuracy-against-eps")
    return paths


def _draw(results: Results) -> Figure:
    import matplotlib
    from matplotlib.figure import Figure

    main, models = results.attacks[0], results.models
    readings = [reading for reading in _ROWS if measured(results, main, reading)] or ["white-box"]
    with matplotlib.rc_context(_LOOK):
        width, height = 1.3 + 2.9 * max(2, len(models)), 1.7 + 2.5 * len(readings)
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(len(readings), len(models), sharex=True, sharey=True, squeeze=False)
        for line, reading in zip(grid, readings, strict=True):
            for axes, model in zip(line, models, strict=True):
                panel(axes, results, model, reading)
            line[0].set_ylabel(f"accuracy, %\n{_ROWS[reading]}")
        for axes, model in zip(grid[0], models, strict=True):
            role = " (surrogate)" if model == results.surrogate else ""
            axes.set_title(f"{model}{role}", fontsize=11)
        for axes in grid[-1]:
            axes.set_xlabel("eps (0 = clean)" if results.norm == "linf" else f"eps, {results.norm} (0 = clean)")
        figure.suptitle(_title(results, main), x=0.01, ha="left", fontsize=12.5)
        handles = _handles(results, main)
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    return figure


def _title(results: Results, attack: str) -> str:
    return f"{published.title(results.dataset)}: accuracy under {attack_name(attack)} perturbations of growing size"


def measured(results: Results, attack: str, reading: str) -> bool:
    """Whether a reading has a number of its own: the standard arm's replayed one is its white-box one."""
    arms = results.arms if reading == "white-box" else [arm for arm in results.arms if arm != "standard"]
    epsilons = results.epsilons(attack)
    return any(
        results.find(model, arm, attack, eps, reading) for model in results.models for arm in arms for eps in epsilons
    )


def panel(axes: Axes, results: Results, model: str, reading: str) -> None:
    """Draw one network's accuracies under one reading: a line and a band per arm, PGD dotted."""
    main = results.attacks[0]
    for layer, arm in enumerate(back_to_front(results.arms)):
        style = style_of(results.arms, arm)
        curve = _curve(results, model, arm, main, reading)
        if not curve:
            continue
        x = [eps for eps, _ in curve]
        axes.plot(x, [100 * number.accuracy for _, number in curve], ms=5, zorder=3 + layer, **style)
        if style["marker"]:
            bounds = [number.interval for _, number in curve]
            low, high = [100 * pair[0] for pair in bounds], [100 * pair[1] for pair in bounds]
            axes.fill_between(x, low, high, color=style["color"], alpha=0.18, lw=0, zorder=2)
        if reading == "white-box" and "pgd" in results.attacks and main != "pgd" and style["marker"]:
            strong = _curve(results, model, arm, "pgd", reading, clean=False)
            heights = [100 * number.accuracy for _, number in strong]
            look = {**style, "lw": 1.2, "ls": ":", "mfc": "white", "ms": 5, "zorder": 3 + layer}
            axes.plot([eps for eps, _ in strong], heights, **look)
    epsilons = [0.0, *results.epsilons(main)]
    step = -(-len(epsilons) // 6)  # at most six labels; the largest eps keeps its own
    ticks = epsilons[::-step][::-1]
    axes.set_xticks(ticks, [f"{eps:.3g}" for eps in ticks])
    axes.set_ylim(-3, 103)
    axes.set_yticks(range(0, 101, 25))
    axes.grid(axis="y", color="#E4E4E4", lw=0.8, zorder=0)


def _curve(
    results: Results, model: str, arm: str, attack: str, reading: str, clean: bool = True
) -> list[tuple[float, Number]]:
    """The measured points of a line, from eps 0 (clean accuracy) on; empty unless the attack itself was measured."""
    points = [(eps, results.find(model, arm, attack, eps, reading)) for eps in results.epsilons(attack)]
    start = [(0.0, results.clean(model, arm))] if clean and any(number for _, number in points) else []
    return [(eps, number) for eps, number in start + points if number]


def back_to_front(arms: Sequence[str]) -> list[str]:
    """The arms in the order in which they are drawn: those of the paper's argument last, on top."""
    front = [arm for arm in ("standard", "augmented", "transferred") if arm in arms]
    return [arm for arm in arms if arm not in front] + front


def style_of(arms: Sequence[str], arm: str) -> dict[str, Any]:
    """How an arm is drawn: the known ones always alike, others by their place among the `arms` shown."""
    if arm in _STYLES:
        return _STYLES[arm]
    others = [name for name in arms if name not in _STYLES]
    return {"color": _SPARE[others.index(arm) % len(_SPARE)], "marker": "D", "lw": 1.6}


def legend(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Every arm shown, in the order of the argument, with its name for people."""
    order = [arm for arm in (*LABELS, *arms) if arm in arms]
    return [(arm, LABELS.get(arm, arm)) for arm in dict.fromkeys(order)]


def _handles(results: Results, attack: str) -> list[Any]:
    from matplotlib.lines import Line2D

    arms = back_to_front(results.arms)[::-1]
    handles = [Line2D([], [], label=label, **style_of(results.arms, arm)) for arm, label in legend(arms)]
    if "pgd" in results.attacks and attack != "pgd":
        look: dict[str, Any] = {"color": "#444444", "marker": "o", "mfc": "white", "ls": ":", "lw": 1.2}
        sizes = sorted({row.n for row in results.rows if row.attack == "pgd"})
        images = "–".join(str(n) for n in dict.fromkeys((sizes[0], sizes[-1])))
        handles.append(Line2D([], [], label=f"the same network under PGD ({images} images)", **look))
    return handles


def _save(figure: Figure, stem: Path) -> list[Path]:
    import matplotlib

    paths = []
    with matplotlib.rc_context(_LOOK):
        for kind, options in (("png", {"dpi": 150}), ("svg", {"metadata": {"Date": None}})):
            path = stem.with_name(f"{stem.name}.{kind}")

            def write(stream: Any, kind: str = kind, options: dict[str, Any] = options) -> None:
                figure.savefig(stream, format=kind, **options)

            paths.append(write_file(path, write))
    return paths
