"""The figures of one dataset's part of the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inoculate.artifacts.specs import fingerprint
from inoculate.attribution.explanation import Explained
from inoculate.report import published
from inoculate.report.figures import back_to_front, measured, panel, style_of
from inoculate.report.layout import attack_name, percent
from inoculate.report.pictures import INK, RULE, SIZE, Picture, box, draw, plainly_log
from inoculate.report.select import Results, natural

if TYPE_CHECKING:
    from matplotlib.axes import Axes

History = Sequence[Mapping[str, float]]
_READ = {"white-box": "crafted anew on each network", "replayed": "crafted before its retraining"}


def accuracy(results: Results, keep: Path | None = None) -> list[tuple[str, list[Picture]]]:
    """Accuracy against eps: per reading, a picture for each network."""
    if not results.attacks:
        return []
    main, rows = results.attacks[0], []
    for reading, read in _READ.items():
        pictures = []
        for model in results.models if measured(results, main, reading) else []:

            def plot(axes: Axes, model: str = model, reading: str = reading) -> None:
                panel(axes, results, model, reading)
                axes.set_xlabel("eps (0: clean)")
                axes.set_ylabel("accuracy, %")

            largest = max(results.epsilons(main))
            ends = []
            for arm in results.arms:
                clean, last = results.clean(model, arm), results.find(model, arm, main, largest, reading)
                if clean and last:
                    ends.append(f"{arm} from {percent(clean.accuracy)} to {percent(last.accuracy)} percent")
            alt = f"{model}: accuracy from clean images to {attack_name(main)} at eps {largest:.3g}, {read}: "
            name = slug(results.dataset, results.norm, "accuracy", reading, model)
            pictures.append(draw(name, _role(results, model), alt + "; ".join(ends), plot, keep))
        if pictures:
            rows.append((f"{attack_name(main)} images {read} ({reading})", pictures))
    return rows


def curves(dataset: str, histories: Mapping[tuple[str, str], History], keep: Path | None = None) -> list[Picture]:
    """Validation accuracy against updates: a picture per network, a line per arm."""
    pictures = []
    for model in sorted({model for model, _ in histories}, key=natural):
        lines = {arm: history for (name, arm), history in histories.items() if name == model and history}

        def plot(axes: Axes, lines: Mapping[str, History] = lines) -> None:
            for arm in back_to_front(list(lines)):
                points = [(entry["update"], 100 * entry["val_accuracy"]) for entry in lines[arm]]
                axes.plot(*zip(*points, strict=True), ms=4, **style_of(list(lines), arm))
            axes.set_xlabel("updates")
            axes.set_ylabel("validation accuracy, %")
            axes.set_ylim(-3, 103)
            axes.grid(axis="y", color=RULE, lw=0.8, zorder=0)

        if lines:
            ends = "; ".join(f"{arm} {percent(h[-1]['val_accuracy'])} percent" for arm, h in lines.items())
            alt = f"{model}: validation accuracy during training, at the end {ends}"
            pictures.append(draw(slug(dataset, "training", model), model, alt, plot, keep))
    return pictures


def drifts(dataset: str, explained: Sequence[Explained], keep: Path | None = None) -> list[Picture]:
    """How far the evidence moves under attack and under noise: a picture per network, two boxes per arm."""
    pictures = []
    for model, arms in by_model(explained).items():
        groups, said = [], []
        for arm, each in arms.items():
            color = style_of(list(arms), arm)["color"]
            for what in ("attack", "noise"):
                values = numbers(each.facts["drift"][what])
                groups.append((f"{arm}\n{what}", values, color if what == "attack" else "#8F8F8F"))
                said.append(f"{arm} under {what} {np.median(values):.2f}" if len(values) else f"{arm} unknown")

        def plot(axes: Axes, groups: list[Any] = groups) -> None:
            box(axes, groups)
            axes.set_xlabel("drift (0: same ranking, 1: unrelated)")

        alt = f"{model}: median drift of the evidence, " + "; ".join(said)
        height = 0.7 + 0.42 * len(groups)
        pictures.append(draw(slug(dataset, "drift", model), model, alt, plot, keep, (3.7, height), 1.05))
    return pictures


def fragility(
    dataset: str, explained: Sequence[Explained], keep: Path | None = None
) -> list[tuple[str, list[Picture]]]:
    """Why images break: margin, gradient, and the eps at which they do, estimated and measured; per network."""
    kinds = {
        "margin": "Logit margin of images that are right (the higher, the safer)",
        "gradient": "Steepness: how much a step of size 1 can change the margin (the lower, the safer)",
        "survival": "Share of images still right as eps grows, each attacked until it breaks",
        "estimate": "Margin / steepness, the local estimate, against the eps at which each image broke",
    }
    rows = []
    for kind, title in kinds.items():
        pictures = []
        for model, arms in by_model(explained).items():
            found = {arm: each.facts["fragility"] for arm, each in arms.items() if "fragility" in each.facts}
            if not found:
                continue
            name = slug(dataset, kind, model)
            if kind in ("margin", "gradient"):
                groups = [(arm, right(f, kind), style_of(list(arms), arm)["color"]) for arm, f in found.items()]
                said = "; ".join(f"{arm} {np.median(v):.3g}" for arm, v, _ in groups if len(v))
                plot: Any = lambda axes, groups=groups: box(axes, groups)  # noqa: E731
                size, left, alt = (3.7, 0.7 + 0.4 * len(groups)), 1.05, f"{model}: median {kind}, {said}"
            else:
                shape = _survival if kind == "survival" else _scatter
                plot = lambda axes, shape=shape, found=found, arms=arms: shape(axes, found, list(arms))  # noqa: E731
                said = "; ".join(f"{arm} {median(f, 'measured'):.3g}" for arm, f in found.items())
                size, left, alt = SIZE, 0.74, f"{model}: median eps at which images that are right break, {said}"
            pictures.append(draw(name, model, alt, plot, keep, size, left))
        if pictures:
            rows.append((title, pictures))
    return rows


def landscape(explained: Sequence[Explained], keep: Path | None = None) -> Picture | None:
    """Every network of every dataset by its median margin and steepness; lines of equal estimated eps."""
    fragile = [(each.key, each.facts["fragility"]) for each in explained if "fragility" in each.facts]
    points = [(*key, median(facts, "gradient"), median(facts, "margin")) for key, facts in fragile]
    points = [point for point in points if point[3] > 0 and point[4] > 0]  # not where there is no image, or no gradient
    if len(points) < 2:
        return None
    datasets = list(dict.fromkeys(point[0] for point in points))
    arms = list(dict.fromkeys(point[2] for point in points))

    def plot(axes: Axes) -> None:
        from matplotlib.lines import Line2D

        for dataset, _, arm, x, y in points:
            look = {"marker": "osD^vP*X"[datasets.index(dataset) % 8], "color": style_of(arms, arm)["color"]}
            axes.plot([x], [y], ms=8, ls="", alpha=0.85, **look)
        axes.set(xscale="log", yscale="log")
        axes.set(xlim=(min(p[3] for p in points) / 2, max(p[3] for p in points) * 2))
        axes.set(ylim=(min(p[4] for p in points) / 2, max(p[4] for p in points) * 2))
        plainly_log(axes, "x")
        plainly_log(axes, "y")
        limits = axes.get_xlim(), axes.get_ylim()
        for eps in (digit * 10.0**power for power in range(-5, 1) for digit in (1, 2, 5)):
            axes.plot(limits[0], [eps * x for x in limits[0]], color=INK, lw=0.6, ls=(0, (1, 3)), zorder=0)
            if limits[1][0] < eps * limits[0][1] < limits[1][1]:
                place = (limits[0][1], eps * limits[0][1])
                axes.annotate(f"eps {eps:g}", place, (0, 2), textcoords="offset points", ha="right", fontsize=9.5)
        axes.set(xlim=limits[0], ylim=limits[1])
        axes.set_xlabel("median steepness (logits per unit of eps)")
        axes.set_ylabel("median margin (logits)")
        handles = [
            Line2D([], [], ls="", color=INK, marker="osD^vP*X"[i % 8], label=published.title(name))
            for i, name in enumerate(datasets)
        ]
        axes.legend(handles=handles, frameon=False, fontsize=9.5, loc="best")

    said = "; ".join(f"{published.title(d)} {m} {a}: margin {y:.3g}, steepness {x:.3g}" for d, m, a, x, y in points)
    return draw("landscape", "Margin against steepness", f"Medians: {said}", plot, keep, (5.6, 3.6))


def _survival(axes: Axes, found: Mapping[str, Any], arms: list[str]) -> None:
    reach = max((np.quantile(broken, 0.95) for f in found.values() if len(broken := numbers(f["measured"]))), default=1)
    for arm in back_to_front(list(found)):
        each = found[arm]["measured"]
        places = np.concatenate([[0.0], np.sort(numbers(each))])
        shares = [100 * (1 - np.mean([eps is not None and eps <= place for eps in each])) for place in places]
        style = {k: v for k, v in style_of(arms, arm).items() if k != "marker"}
        axes.step(places, shares, where="post", **style)
    axes.set(xlim=(0, reach * 1.02 or 1), ylim=(-3, 103))
    axes.set_yticks(range(0, 101, 25))
    axes.set_xlabel("eps")
    axes.set_ylabel("images still right, %")
    axes.grid(axis="y", color=RULE, lw=0.8, zorder=0)


def _scatter(axes: Axes, found: Mapping[str, Any], arms: list[str]) -> None:
    ends: list[float] = []
    for arm in back_to_front(list(found)):
        pairs = paired(found[arm])
        if len(pairs):
            style = style_of(arms, arm)
            axes.plot(*pairs.T, ls="", marker=style["marker"] or "o", ms=3.5, alpha=0.6, mew=0, color=style["color"])
            ends += [pairs.min(), pairs.max()]
    if ends:
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color=INK, lw=0.8, ls=(0, (4, 3)), zorder=0)
    plainly_log(axes, "x")
    plainly_log(axes, "y")
    axes.set_xlabel("estimated eps")
    axes.set_ylabel("measured eps")


def by_model(explained: Iterable[Explained]) -> dict[str, dict[str, Explained]]:
    """The explained networks of one dataset: per model, its arms."""
    found: dict[str, dict[str, Explained]] = {}
    for each in explained:
        found.setdefault(each.key[1], {})[each.key[2]] = each
    return found


def numbers(values: Iterable[float | None]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The values that are known."""
    return np.array([value for value in values if value is not None], dtype=np.float64)


def right(fragile: Mapping[str, Sequence[float | None]], kind: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What is known of images that are right as they are."""
    pairs = zip(fragile[kind], fragile["margin"], strict=True)
    return numbers(value for value, margin in pairs if margin is not None and margin > 0)


def median(fragile: Mapping[str, Sequence[float | None]], kind: str) -> float:
    """Median over images that are right; one that never broke counts as infinitely far. NaN without images."""
    values = list(right(fragile, kind))
    never = sum(m is not None and m > 0 for m in fragile["margin"]) - len(values)
    values += [float("inf")] * never
    return float(np.quantile(values, 0.5, method="lower")) if values else float("nan")


def paired(fragile: Mapping[str, Sequence[float | None]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(estimated, measured) eps of the images that are right and broke: N×2."""
    pairs = zip(fragile["estimate"], fragile["measured"], strict=True)
    return np.array([(e, m) for e, m in pairs if e and m and e > 0 and m > 0], dtype=np.float64).reshape(-1, 2)


def slug(*parts: str) -> str:
    """A file name from names; of long ones the end is a fingerprint, because file systems take 255 bytes."""
    name = re.sub(r"[^\w.-]+", "_", "-".join(parts)).strip("._") or "figure"
    return name if len(name) <= 120 else f"{name[:99]}-{fingerprint({'name': name})}"


def _role(results: Results, model: str) -> str:
    return f"{model} (surrogate)" if model == results.surrogate else model
