"""One self-contained HTML page from whatever a run's folder holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inoculate.artifacts.files import write_text
from inoculate.attribution.explanation import Explained
from inoculate.core.stats import spearman
from inoculate.report import published
from inoculate.report.claims import Claim, claims
from inoculate.report.figures import legend
from inoculate.report.folder import Measured
from inoculate.report.headline import Headline, headline
from inoculate.report.heat import Heat, transfers
from inoculate.report.images import BUDGET, Shown, shown
from inoculate.report.latex import is_summary
from inoculate.report.layout import MISSING, Table, accuracy_cell, attack_name
from inoculate.report.panels import accuracy, curves, drifts, fragility, landscape, median, paired, slug
from inoculate.report.pictures import Picture
from inoculate.report.select import Results, collect, in_order, natural
from inoculate.report.tables import paper_tables
from inoculate.report.tradeoff import tradeoffs

TEMPLATES = Path(__file__).with_name("templates")
_NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1"}
_KINDS = {"fit": "training", "craft": "crafting", "evaluate": "testing", "explain": "explaining"}
Rows = list[tuple[str, list[Picture]]]


@dataclass(frozen=True, eq=False)
class Part:
    """One dataset of the page, under one norm."""

    anchor: str
    title: str
    headline: Headline
    claims: list[Claim]
    tables: list[Table]
    legend: list[tuple[str, str]]
    accuracy: Rows
    tradeoffs: list[Picture]
    transfers: list[Heat]
    shown: list[Shown]
    drifts: list[Picture]
    fragility: Rows
    nearness: Table | None
    curves: list[Picture]
    models: list[str]
    explained: list[tuple[str, str]]


def write_page(path: Path, run: Measured, keep: Path | None = None) -> Path:
    """Write the page; with a folder `keep`, each of its figures as a PNG there too."""
    return write_text(path, render(run, keep))


def render(run: Measured, keep: Path | None = None) -> str:
    """The page's HTML. Any subset of a study's rows, explanations and facts will do."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["summary"] = is_summary
    parameters = run.manifest.get("parameters", {})
    found = claims(run.rows, run.records, run.surrogates, parameters)
    tables = paper_tables(run.rows, run.surrogates)
    all_results = collect(run.rows, run.surrogates)
    share = BUDGET // max(1, len({each.key[0] for each in run.explained}))
    parts = [_part(results, run, found, tables, share, keep) for results in all_results]
    return environment.get_template("report.html").render(
        run=run,
        parts=parts,
        landscape=landscape(run.explained, keep),
        explained_arms=legend(list(dict.fromkeys(each.key[2] for each in run.explained))),
        sizes=_sizes(run),
        costs=_costs(run),
        slowest=_slowest(run),
        versions=run.manifest.get("versions", {}),
        machine=run.manifest.get("machine", {}),
        drift_measure=next((each.facts["drift"]["measure"] for each in run.explained), ""),
        explained_under=_explained_under(run.explained),
    )


def _part(
    results: Results, run: Measured, found: Sequence[Claim], tables: Sequence[Table], share: int, keep: Path | None
) -> Part:
    name, norm = results.dataset, results.norm
    title = published.title(name) + ("" if norm == "linf" else f" ({norm})")
    explained = [each for each in run.explained if each.key[0] == name and each.facts["norm"] == norm]
    explained.sort(key=lambda each: (natural(each.key[1]), in_order(each.key[2])))
    arms = sorted({each.key[2] for each in explained}, key=in_order)
    return Part(
        slug(name, norm), title, headline(results, run.records),
        [claim for claim in found if claim.sentence.startswith(f"{title} (")],
        [_plain(results)] if results.arms == ["standard"] else
        [table for table in tables if table.title.startswith((f"{title}, ", f"{title}: "))],
        legend(results.arms), accuracy(results, keep),
        tradeoffs(results, run.training_seconds(name), keep), transfers(results), shown(explained, share),
        drifts(name, explained, keep), fragility(name, explained, keep), _nearness(explained),
        curves(name, run.histories(name), keep), list(dict.fromkeys(each.key[1] for each in explained)), legend(arms),
    )  # fmt: skip


def _plain(results: Results) -> Table:
    """Every white-box accuracy in one table: for evaluations, where nothing is before or after."""
    rows = []
    for model in results.models:
        found = [("none", 0.0, results.clean(model, "standard"))]
        found += [
            (attack, eps, results.find(model, "standard", attack, eps, "white-box"))
            for attack in results.attacks
            for eps in results.epsilons(attack)
        ]
        rows += [
            [model, attack_name(attack), f"{eps:.4g}", accuracy_cell(number, number.n), f"{number.n:,}"]
            for attack, eps, number in found
            if number
        ]
    note = "95 % Wilson intervals; every test image counts, a clean error is an error. Attack none: clean images."
    return Table("Accuracy, %", note, ("network", "attack", "eps", "accuracy", "n"), rows)


def _nearness(explained: Sequence[Explained]) -> Table | None:
    """Medians of what makes images fragile, per network and arm."""
    columns = (
        "network",
        "arm",
        "margin",
        "steepness",
        "estimated eps",
        "measured eps",
        "agreement",
        "wrong as they are",
    )
    rows = []
    for each in explained:
        fragile = each.facts.get("fragility")
        if fragile:
            wrong = sum(m is not None and m <= 0 for m in fragile["margin"])
            total = len(fragile["margin"])
            rows.append([each.key[1], each.key[2], *_medians(fragile), agreement(fragile), f"{wrong} of {total}"])
    note = (
        "Medians over images that are right. Agreement: Spearman's rank correlation of estimated and measured eps over "
        "images; 1 means that margin and steepness alone tell which images break first."
    )
    return Table("How near the errors are", note, columns, rows) if rows else None


def _medians(fragile: Mapping[str, Any]) -> list[str]:
    values = [median(fragile, kind) for kind in ("margin", "gradient", "estimate", "measured")]
    return [f"{value:.3g}" if np.isfinite(value) else MISSING for value in values]


def agreement(fragile: Mapping[str, Any]) -> str:
    """Rank correlation of estimated and measured eps over images, to two places."""
    pairs = paired(fragile)
    value = float(spearman(pairs[:, :1].T, pairs[:, 1:].T)[0]) if len(pairs) > 2 else float("nan")
    return f"{value:.2f}" if np.isfinite(value) else MISSING


def _sizes(run: Measured) -> Table | None:
    """How the medians move with image size, where datasets of a study differ in nothing else."""
    families: dict[str, list[tuple[int, Explained]]] = defaultdict(list)
    for each in run.explained:
        if (family := run.family(each.key[0])) and "fragility" in each.facts:
            families[family[0]].append((family[1], each))
    rows = []
    for source, members in families.items():
        if len({size for size, _ in members}) > 1:
            ordered = sorted(members, key=lambda member: (member[1].key[1:], member[0]))
            for size, each in ordered:
                rows.append([source, str(size), *each.key[1:], *_medians(each.facts["fragility"])])
    columns = ("source", "image size", "network", "arm", "margin", "steepness", "estimated eps", "measured eps")
    note = "The same images, loaded at several sizes; medians over images that are right."
    return Table("How it moves with image size", note, columns, rows) if rows else None


def _costs(run: Measured) -> Table | None:
    """Seconds of making every artefact, by dataset and kind of work, whenever that was."""
    spent: dict[tuple[str, str], float] = defaultdict(float)
    for cell in run.cells:
        if "kind" in cell:
            spent[cell["dataset"], _KINDS.get(cell["kind"], "choosing")] += float(cell.get("seconds", 0))
    if not spent:
        for row in run.rows:
            spent[row.dataset, "testing"] += row.seconds
    kinds = list(dict.fromkeys(kind for _, kind in spent))
    rows = [
        [published.title(name), *(_time(spent.get((name, kind), 0)) for kind in kinds),
         _time(sum(seconds for (other, _), seconds in spent.items() if other == name))]
        for name in dict.fromkeys(name for name, _ in spent)
    ]  # fmt: skip
    note = "Working time of every step, whenever it was done; what lies in the store is not done again."
    return Table("By dataset", note, ("dataset", *kinds, "together"), rows) if sum(spent.values()) else None


def _slowest(run: Measured) -> Table | None:
    cells = sorted((c for c in run.cells if c.get("seconds")), key=lambda c: -float(c["seconds"]))
    rows = [[str(cell["cell"]), _time(float(cell["seconds"]))] for cell in cells]
    return Table("Every step", f"{len(rows)} steps, the longest first.", ("step", "time"), rows) if rows else None


def _explained_under(explained: Sequence[Explained]) -> str:
    under = dict.fromkeys(
        f"{attack_name(each.facts['attack'])}, {_NORMS.get(each.facts['norm'], each.facts['norm'])}, "
        f"eps {each.facts['eps']:.3g}"
        for each in explained
    )
    return "; ".join(under)


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
