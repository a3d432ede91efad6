"""Accuracy beyond norms: under common corruptions, and where an adversary rotates and shifts the images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from inoculate.core.row import Row
from inoculate.report.formatting import MISSING, percent
from inoculate.report.tables.table import Table

_CORRUPTED, _MOVED = "Accuracy under common corruptions, %", "Accuracy under rotations and translations, %"
_NOTES = {
    _CORRUPTED: "Hendrycks and Dietterich 2019, at severities 1 (least) to 5. The mean is over all kinds and "
    "severities measured; frost uses generated ice.",
    _MOVED: "Engstrom et al. 2019: the worst movement tried for each image; a clean error is an error.",
}


def natural_tables(rows: Iterable[Row], dataset: str) -> list[Table]:
    """The tables of a dataset: of corruptions one for each network, arm and seed; of movements one."""
    chosen = [row for row in rows if not row.has_eps and row.dataset == dataset]
    corrupted: dict[tuple[str, str, int], list[Row]] = {}
    for row in chosen:
        if row.norm == "corruption":
            corrupted.setdefault((row.model, row.arm, row.seed), []).append(row)
    tables = [_corrupted(found, ", ".join(map(str, key)) * (len(corrupted) > 1)) for key, found in corrupted.items()]
    moved = [row for row in chosen if row.norm == "spatial"]
    lines = [[row.model, row.arm, row.movements, percent(row.accuracy), f"{row.n:,}"] for row in moved]
    columns = ("network", "arm", "movements", "accuracy", "n")
    return [*tables, *([Table(_MOVED, _NOTES[_MOVED], columns, lines)] if lines else [])]


def _corrupted(rows: Sequence[Row], title: str) -> Table:
    """A line per kind, a column per severity."""
    found = {(row.attack, row.severity): percent(row.accuracy) for row in rows if row.severity}
    severities = sorted({severity for _, severity in found})
    lines = [
        [kind.replace("_", " "), *(found.get((kind, severity), MISSING) for severity in severities)]
        for kind in dict.fromkeys(kind for kind, _ in found)
    ]
    means = [row for row in rows if not row.severity]
    lines += [["mean", percent(row.accuracy), *[""] * (len(severities) - 1)] for row in means]
    name = f"{_CORRUPTED}: {title}" if title else _CORRUPTED
    return Table(name, _NOTES[_CORRUPTED], ("corruption", *map(str, severities)), lines)
