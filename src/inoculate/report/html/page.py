"""One self-contained HTML page from everything that a run left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inoculate.attribution.explanation import Explanation
from inoculate.report.formatting import attack_name, norm_name
from inoculate.report.html.environment import html_environment
from inoculate.report.html.gallery import first_tiles, galleries
from inoculate.report.html.sections import sections
from inoculate.report.names import with_short_names
from inoculate.report.overview import overview_of
from inoculate.report.plots.landscape import landscape_figure
from inoculate.report.plots.style import legend
from inoculate.report.run import RunRecord
from inoculate.report.tables.costs import cost_table, step_table
from inoculate.report.tables.fragility import image_size_table
from inoculate.report.tables.table import is_summary

TEMPLATES = Path(__file__).with_name("templates")


def render(run: RunRecord, folder: Path | None = None) -> str:
    """The page's HTML; with a `folder`, every figure is written there as a PNG too. What is missing is left out."""
    environment = html_environment(TEMPLATES)
    environment.tests["summary"] = is_summary
    run = with_short_names(run)
    made = sections(run, folder)
    overview = overview_of(run, [(each.results, each.headline.lead) for each in made])
    shown = galleries(overview.failures)
    return environment.get_template("report.html").render(
        run=run,
        overview=overview,
        galleries=shown,
        strip=first_tiles(shown),
        sections=made,
        checks=_checks(run),
        landscape=landscape_figure(run.explanations, folder),
        explained_arms=legend(list(dict.fromkeys(each.key[2] for each in run.explanations))),
        image_sizes=image_size_table(run),
        costs=cost_table(run),
        steps=step_table(run),
        versions=run.manifest.get("versions", {}),
        machine=run.manifest.get("machine", {}),
        stability_measure=next((each.facts["stability"]["measure"] for each in run.explanations), ""),
        attacked_with=_attacked_with(run.explanations),
    )


def _checks(run: RunRecord) -> list[tuple[str, Any]]:
    """The checks of every run of the page, each with the name of its model where there are several."""
    named = [(member.title, member.checks) for member in run.members] or [("", run.checks)]
    return [(name, checks) for name, checks in named if checks]


def _attacked_with(explanations: Sequence[Explanation]) -> str:
    """The attacks under which images are explained, each with its norm and eps."""
    names = (
        f"{attack_name(each.facts['attack'])}, {norm_name(each.facts['norm'])}, eps {each.facts['eps']:.3g}"
        for each in explanations
    )
    return "; ".join(dict.fromkeys(names))
