"""Each measured row with its threat model, settings, interval and subgroups, as JSON values."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from inoculate.core.groups import GroupAccuracy, accuracy_by
from inoculate.core.row import Row
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


def subgroups_of(source: Source, row: Row) -> list[dict[str, Any]]:
    """The accuracy of each class, and of each group by a column of the data, with the worst; empty where unknown.

    Groups are in the order of their names, so that the evidence of two runs can be compared line by line.
    """
    right, finished = source.right.get(row.key), source.finished.get(row.key)
    if right is None or finished is None:
        return []
    found = {by: accuracy_by(names, right, finished) for by, names in source.groups.items() if len(names) == len(right)}
    return [
        {
            "by": by,
            "worst": groups[0].name,
            "groups": [_described(each) for each in sorted(groups, key=attrgetter("name"))],
        }
        for by, groups in found.items()
        if groups
    ]


def _described(group: GroupAccuracy) -> dict[str, Any]:
    low, high = group.interval
    return {
        "name": group.name, "accuracy": group.accuracy, "correct": group.correct, "n": group.n, "ci_low": low,
        "ci_high": high, "is_small": group.is_small,
    }  # fmt: skip
