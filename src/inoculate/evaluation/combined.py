"""What the attacks of an evaluation leave together: the worst case at each threat, and over a union of norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from inoculate.core.row import CERTIFIED, UNION, Row
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.union import EPS

WORST_CASE = "worst-case"


def combined_rows(per_image: Mapping[Row, PerSampleResult]) -> list[Row]:
    """The rows `worst-case`, at each threat and over those of several norms: an image counts if no attack breaks it.

    Images that some attack did not finish do not count. What early termination can hide adds up.
    """
    others = ("none", CERTIFIED)
    attacked = [row for row in per_image if row.attack not in others and row.has_eps and row.norm != UNION]
    if any(row.attack == WORST_CASE for row in attacked):
        return []
    groups: dict[tuple[str, float, str], list[Row]] = {}
    for row in attacked:
        groups.setdefault((row.norm, row.eps, row.mask), []).append(row)
    combined = [
        _combined(per_image, rows, {"norm": norm, "eps": eps, "mask": mask})
        for (norm, eps, mask), rows in groups.items()
    ]
    if len({row.norm for row in attacked}) > 1:
        united = ", ".join(dict.fromkeys(f"{norm} {eps:.4g}" for norm, eps, _ in groups))
        combined.append(_combined(per_image, attacked, {"norm": UNION, "eps": EPS, "threats": united}))
    return [row for row in combined if row is not None]


def _combined(per_image: Mapping[Row, PerSampleResult], rows: Sequence[Row], labels: Mapping[str, Any]) -> Row | None:
    results = [per_image[row] for row in rows]
    finished = torch.stack([each.finished for each in results]).all(dim=0)
    right = torch.stack([each.right for each in results]).all(dim=0) & finished
    if not bool(finished.any()):
        return None
    first = rows[0]
    same = {"dataset": first.dataset, "model": first.model, "arm": first.arm, "seed": first.seed}
    hidden = [row.hidden for row in rows if row.hidden is not None]
    return Row.measured(
        correct=int(right.sum()), n=int(finished.sum()), seconds=sum(row.seconds for row in rows), **same,
        protocol=first.protocol, hidden=min(1.0, sum(hidden)) if hidden else None,
        attack=WORST_CASE, **labels,
    )  # fmt: skip
