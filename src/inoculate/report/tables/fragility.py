"""Medians of margin, gradient norm and smallest eps, per network and per image size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from inoculate.attribution.explanation import Explanation
from inoculate.report.formatting import MISSING
from inoculate.report.fragility import Fragility, agreement, fragility_of, median
from inoculate.report.run import RunRecord
from inoculate.report.tables.table import Table

_KINDS = {"margin": "margin", "gradient_norm": "gradient norm", "estimate": "estimated eps", "measured": "measured eps"}


def fragility_table(explanations: Sequence[Explanation]) -> Table | None:
    """Medians per network and arm; None where nothing was measured."""
    rows = []
    for each in explanations:
        if fragility := fragility_of(each):
            wrong = sum(margin is not None and margin <= 0 for margin in fragility["margin"])
            value = agreement(fragility)
            shown = f"{value:.2f}" if np.isfinite(value) else MISSING
            rows.append([*each.key[1:], *_medians(fragility), shown, f"{wrong} of {len(fragility['margin'])}"])
    note = (
        "Medians over images that are classified correctly. Agreement: Spearman's rank correlation of estimated and "
        "measured eps over images; at 1, margin and gradient norm alone order the images by the eps that breaks them."
    )
    columns = ("network", "arm", *_KINDS.values(), "agreement", "misclassified clean")
    return Table("Smallest eps per network", note, columns, rows) if rows else None


def image_size_table(run: RunRecord) -> Table | None:
    """Medians per image size, where datasets of a study differ in nothing else; None where none do."""
    families: dict[str, list[tuple[int, Explanation]]] = defaultdict(list)
    for each in run.explanations:
        if (family := run.family(each.key[0])) and fragility_of(each):
            families[family[0]].append((family[1], each))
    rows = []
    for source, members in families.items():
        if len({size for size, _ in members}) > 1:
            for size, each in sorted(members, key=lambda member: (member[1].key[1:], member[0])):
                rows.append([source, str(size), *each.key[1:], *_medians(fragility_of(each) or {})])
    columns = ("source", "image size", "network", "arm", *_KINDS.values())
    note = "The same images, loaded at several sizes; medians over images that are classified correctly."
    return Table("By image size", note, columns, rows) if rows else None


def _medians(fragility: Fragility) -> list[str]:
    values = [median(fragility, kind) for kind in _KINDS]
    return [f"{value:.3g}" if np.isfinite(value) else MISSING for value in values]
