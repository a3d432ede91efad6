"""The time that a run took, by dataset and by step."""

from __future__ import annotations

from collections import defaultdict

from inoculate.report import published
from inoculate.report.run import RunRecord
from inoculate.report.tables.table import Table

_KINDS = {"fit": "training", "craft": "crafting", "evaluate": "testing", "explain": "explaining"}


def cost_table(run: RunRecord) -> Table | None:
    """Seconds spent on every artefact, by dataset and kind of work; None where no time is known."""
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
    note = "Working time of every step, whenever it was done; artefacts found in the store are not made again."
    return Table("By dataset", note, ("dataset", *kinds, "total"), rows) if sum(spent.values()) else None


def step_table(run: RunRecord) -> Table | None:
    """Every step with its time, the longest first; None where no time is known."""
    cells = sorted((c for c in run.cells if c.get("seconds")), key=lambda c: -float(c["seconds"]))
    rows = [[str(cell["cell"]), _time(float(cell["seconds"]))] for cell in cells]
    return Table("Every step", f"{len(rows)} steps, the longest first.", ("step", "time"), rows) if rows else None


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
