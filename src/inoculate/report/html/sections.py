"""The sections of the page: one per dataset and norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inoculate.artifacts.names import file_name
from inoculate.attribution.explanation import Explanation
from inoculate.report import published
from inoculate.report.claims import Claim, claims
from inoculate.report.formatting import percent
from inoculate.report.headline import Headline, headline
from inoculate.report.html.images import BUDGET, ShownImage, shown_images
from inoculate.report.plots.accuracy import accuracy_figures
from inoculate.report.plots.attribution import stability_figures
from inoculate.report.plots.fragility import fragility_figures
from inoculate.report.plots.style import LegendEntry, legend
from inoculate.report.plots.svg import SvgFigure
from inoculate.report.plots.tradeoff import tradeoff_figures
from inoculate.report.plots.training import training_figures
from inoculate.report.results import BEFORE, Results, arm_order, collect, natural_order
from inoculate.report.run import RunRecord
from inoculate.report.tables.evaluation import accuracy_table, before_after_table
from inoculate.report.tables.fragility import fragility_table
from inoculate.report.tables.natural import natural_tables
from inoculate.report.tables.paper import paper_tables
from inoculate.report.tables.table import Table
from inoculate.report.tables.transfer import Heatmap, transfer_heatmaps

FigureGroups = list[tuple[str, list[SvgFigure]]]


@dataclass(frozen=True, eq=False)
class Attributions:
    """What explanations show of one dataset."""

    models: list[str]
    arms: list[LegendEntry]
    images: list[ShownImage]
    stability: list[SvgFigure]
    fragility: FigureGroups
    fragility_table: Table | None


@dataclass(frozen=True, eq=False)
class Section:
    """One dataset of the page, under one norm."""

    results: Results
    anchor: str
    title: str
    headline: Headline
    claims: list[Claim]
    tables: list[Table]
    legend: list[LegendEntry]
    accuracy: FigureGroups
    tradeoffs: list[SvgFigure]
    transfers: list[Heatmap]
    attributions: Attributions | None
    training: list[SvgFigure]

    @property
    def folded(self) -> list[Table]:
        """Every table, with that of the attributions: they stand at the end of the page."""
        found = self.attributions.fragility_table if self.attributions else None
        return [*self.tables, *([found] if found else [])]


def sections(run: RunRecord, folder: Path | None = None) -> list[Section]:
    """A section for every dataset and norm of the run; with a `folder`, every figure as a PNG there too."""
    found = claims(run.rows, run.records, run.surrogates, run.parameters)
    tables = paper_tables(run.rows, run.surrogates)
    budget = BUDGET // max(1, len({each.key[0] for each in run.explanations}))
    made: list[Section] = []
    shown: set[str] = set()
    for results in _all_results(run):
        title = published.title(results.dataset) + ("" if results.norm == "linf" else f" ({results.norm})")
        made.append(
            Section(
                results=results,
                anchor=file_name(results.dataset, results.norm),
                title=title,
                headline=_headline(results, run),
                claims=[claim for claim in found if claim.sentence.startswith(f"{title} (")],
                tables=[
                    *_tables(results, [t for t in tables if t.title.startswith((f"{title}, ", f"{title}: "))]),
                    *(() if results.dataset in shown else natural_tables(run.rows, results.dataset)),
                ],
                legend=_legend(results, run),
                accuracy=accuracy_figures(results, folder),
                tradeoffs=tradeoff_figures(results, run.training_seconds(results.dataset), folder),
                transfers=transfer_heatmaps(results),
                attributions=_attributions(results, run.explanations, budget, folder),
                training=training_figures(results.dataset, run.histories(results.dataset), folder),
            )
        )
        shown.add(results.dataset)
    return made


def _legend(results: Results, run: RunRecord) -> list[LegendEntry]:
    """The arms that differ in a figure; none where there is one network only, which its figure names."""
    arms = results.arms or [each.arm for each in run.trainings]
    return legend(arms) if run.is_study or len(arms) > 1 else []


def _all_results(run: RunRecord) -> list[Results]:
    """The results of every dataset and norm; without rows for those that were only explained or trained on."""
    found = collect(run.rows, run.surrogates)
    known = {(results.dataset, results.norm) for results in found}
    datasets = {results.dataset for results in found}
    others = [(each.key[0], each.space) for each in run.explanations]
    others = [pair for pair in others if pair not in known]
    others += [(each.dataset, "linf") for each in run.trainings if each.history and each.dataset not in datasets]
    return found + [Results(dataset, norm, None, (), {}) for dataset, norm in dict.fromkeys(others)]


def _headline(results: Results, run: RunRecord) -> Headline:
    histories = run.histories(results.dataset)
    if results.rows or not histories:
        return headline(results, run.records)
    last = next(iter(histories.values()))[-1]
    words = f"Validation accuracy {percent(last['val_accuracy'])} % after {last['update']:.0f} updates."
    return Headline(words, [])


def _tables(results: Results, paper: list[Table]) -> list[Table]:
    """The paper's tables for a study; for a single arm its accuracies, for a hardened model those before and after."""
    if not results.rows:
        return []
    if BEFORE in results.arms:
        return [before_after_table(results)]
    return [accuracy_table(results)] if len(results.arms) == 1 else paper


def _attributions(
    results: Results, explanations: Sequence[Explanation], budget: int, folder: Path | None
) -> Attributions | None:
    name = results.dataset
    chosen = [each for each in explanations if each.key[0] == name and each.space == results.norm]
    if not chosen:
        return None
    chosen.sort(key=lambda each: (natural_order(each.key[1]), arm_order(each.key[2])))
    return Attributions(
        models=list(dict.fromkeys(each.key[1] for each in chosen)),
        arms=legend(sorted({each.key[2] for each in chosen}, key=arm_order)),
        images=shown_images(chosen, budget),
        stability=stability_figures(name, chosen, folder),
        fragility=fragility_figures(name, chosen, folder),
        fragility_table=fragility_table(chosen),
    )
