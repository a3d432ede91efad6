"""Each measured row with its threat model, settings, interval and subgroups, as JSON values."""

from __future__ import annotations

from typing import Any

import numpy as np

from inoculate.core.row import Row
from inoculate.core.stats import wilson
from inoculate.report.evidence.source import Source
from inoculate.report.evidence.taxonomy import is_attacked, is_clean, taxonomy_of

_LEFT_OUT = ("seconds",)  # differs between runs of the same


def measurement_of(source: Source, row: Row) -> dict[str, Any]:
    """One row, with everything that the folder tells of it."""
    fields = {name: value for name, value in row.as_dict().items() if name not in _LEFT_OUT}
    return {
        "id": row.key,
        **fields,
        "threat_model": threat_model(row),
        "attack_settings": _settings(source, row),
        "taxonomy": taxonomy_of(row),
        "subgroups": subgroups_of(source, row),
    }


def threat_model(row: Row) -> str:
    """What may change, in words."""
    if is_clean(row):
        return "unchanged images"
    if not row.has_eps:
        return row.movements or (
            f"common corruption, severity {row.severity}" if row.severity else "common corruptions"
        )
    if row.threats:
        return f"the worst of {row.threats} for each image, pixels in [0, 1]"
    unit = "pixels" if row.norm == "l0" else "in pixel units of [0, 1]"
    where = f", only in the mask {row.mask}" if row.mask else ""
    return f"{row.norm} ball of radius {row.eps:.6g} ({unit}), pixels in [0, 1]{where}"


def _settings(source: Source, row: Row) -> Any:
    return source.attacks.get(row.attack) if is_attacked(row) else None


def subgroups_of(source: Source, row: Row) -> dict[str, Any] | None:
    """The accuracy of each class and the worst class; None where labels or per-image results are not there."""
    right, finished = source.right.get(row.key), source.finished.get(row.key)
    labels = np.asarray(source.labels, dtype=np.int64)
    if right is None or finished is None or not len(labels) or len(labels) != len(right):
        return None
    groups = []
    for number in np.unique(labels).tolist():
        chosen = (labels == number) & finished
        n, correct = int(chosen.sum()), int((chosen & right).sum())
        if n:
            low, high = wilson(correct, n)
            name = source.classes[number] if number < len(source.classes) else str(number)
            groups.append(
                {"class": name, "accuracy": correct / n, "correct": correct, "n": n, "ci_low": low, "ci_high": high}
            )
    worst = min(groups, key=lambda group: group["accuracy"], default=None)
    return {"by": "class", "worst": worst and worst["class"], "groups": groups} if groups else None
