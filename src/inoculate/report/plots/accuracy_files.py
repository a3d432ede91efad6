"""Accuracy against eps as files for papers: every network of a dataset in one figure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoculate.artifacts.files import write_file
from inoculate.core.row import UNION, Row
from inoculate.report import published
from inoculate.report.formatting import attack_name
from inoculate.report.plots.accuracy import is_measured, plot_accuracy
from inoculate.report.plots.style import FILE_RC, drawing_order, legend, style_of
from inoculate.report.results import Results, View, collect

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_READINGS = {
    "white-box": "crafted on the network\nas it is (white-box)",
    "replayed": "crafted on it before its\nretraining (replayed)",
}


def write_accuracy_figures(
    rows: Iterable[Row], dataset: str, folder: str | Path, surrogate: Mapping[str, str] | None = None
) -> list[Path]:
    """Draw the main attack's accuracy (percent) against eps for every network of a dataset; return the files.

    Upper panels white-box with PGD dotted, lower panels replayed; bands are 95 % Wilson intervals, eps 0 is clean
    accuracy. One PNG and one SVG per norm; a norm without an attack row, and a union of norms, draw nothing.
    """
    paths: list[Path] = []
    for results in collect((row for row in rows if row.dataset == dataset), surrogate):
        if not results.attacks or results.norm == UNION:
            continue
        norm = "" if results.norm == "linf" else f"-{results.norm}"
        stem = re.sub(r"[^\w.-]+", "_", dataset).strip("._") or "dataset"
        paths += _save(_draw(results), Path(folder) / f"{stem}{norm}-accuracy-against-eps")
    return paths


def _draw(results: Results) -> Figure:
    import matplotlib
    from matplotlib.figure import Figure

    main, models = results.attacks[0], results.models
    readings = [reading for reading in _READINGS if is_measured(results, View(main, reading))] or ["white-box"]
    with matplotlib.rc_context(FILE_RC):
        width, height = 1.3 + 2.9 * max(2, len(models)), 1.7 + 2.5 * len(readings)
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(len(readings), len(models), sharex=True, sharey=True, squeeze=False)
        for line, reading in zip(grid, readings, strict=True):
            for axes, model in zip(line, models, strict=True):
                plot_accuracy(axes, results, model, View(main, reading))
            line[0].set_ylabel(f"accuracy, %\n{_READINGS[reading]}")
        for axes, model in zip(grid[0], models, strict=True):
            role = " (surrogate)" if model == results.surrogate else ""
            axes.set_title(f"{model}{role}", fontsize=11)
        for axes in grid[-1]:
            axes.set_xlabel("eps (0 = clean)" if results.norm == "linf" else f"eps, {results.norm} (0 = clean)")
        title = f"{published.title(results.dataset)}: accuracy under {attack_name(main)} perturbations of growing size"
        figure.suptitle(title, x=0.01, ha="left", fontsize=12.5)
        handles = _handles(results, main)
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    return figure


def _handles(results: Results, attack: str) -> list[Any]:
    from matplotlib.lines import Line2D

    arms = drawing_order(results.arms)[::-1]
    handles = [Line2D([], [], label=each.label, **style_of(results.arms, each.arm)) for each in legend(arms)]
    if "pgd" in results.attacks and attack != "pgd":
        dotted: dict[str, Any] = {"color": "#444444", "marker": "o", "mfc": "white", "ls": ":", "lw": 1.2}
        sizes = sorted({row.n for row in results.rows if row.attack == "pgd"})
        images = "–".join(str(n) for n in dict.fromkeys((sizes[0], sizes[-1])))
        handles.append(Line2D([], [], label=f"the same network under PGD ({images} images)", **dotted))
    return handles


def _save(figure: Figure, stem: Path) -> list[Path]:
    import matplotlib

    paths = []
    with matplotlib.rc_context(FILE_RC):
        for kind, options in (("png", {"dpi": 150}), ("svg", {"metadata": {"Date": None}})):
            path = stem.with_name(f"{stem.name}.{kind}")

            def write(stream: Any, kind: str = kind, options: dict[str, Any] = options) -> None:
                figure.savefig(stream, format=kind, **options)

            paths.append(write_file(path, write))
    return paths
