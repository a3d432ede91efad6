"""What a job's folder holds that evidence is made of: rows, per-image outcomes, settings, checks and versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inoculate.artifacts.arrays import read_arrays
from inoculate.artifacts.files import read_json
from inoculate.artifacts.rows import read_records, read_rows
from inoculate.artifacts.store import MANIFEST
from inoculate.core.errors import InputError
from inoculate.core.groups import named_groups
from inoculate.core.row import Row
from inoculate.report.run import CHECKS, MODEL, RECORDS, RESULTS

FACTS, PER_IMAGE, VERDICT, COMPARISON = "evaluation.json", "per_image.npz", "requirements.json", "comparison.json"
BY_CLASS = "class"


@dataclass(frozen=True, eq=False)
class Source:
    """A folder's content. What a job did not leave is empty.

    Fields:
        kind: `evaluation`, `hardening`, `study` or `rows`.
        right: by the key of a row, which images (N, bool) are right; finished: those that count.
        groups: by `class` and by the name of a column of the data, the group of each image (N).
        attacks: the options of attacks by name.
        data: by dataset, its digest and what is known of it.
        model: digest of the weights and what is known of the model.
        training: how the weights were made.
        checks: the trust checks, with their threat.
        verdict: of a gate.
        comparison: with an earlier model.
    """

    kind: str
    rows: Sequence[Row]
    right: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    finished: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    attacks: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, Any] | None = None
    verdict: Mapping[str, Any] | None = None
    comparison: Mapping[str, Any] | None = None
    versions: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()


def read_source(folder: Path) -> Source:
    """Read the folder of `evaluate`, `harden`, `certify` or a study; raises `InputError` for any other."""
    if not (folder / RESULTS).is_file():
        raise InputError(f"{folder} holds no {RESULTS}: give the folder of an evaluation, a hardening or a study")
    rows = read_rows(folder / RESULTS)
    facts, manifest, described = (_mapping(folder / name) for name in (FACTS, MANIFEST, MODEL))
    right, finished = _outcomes(folder, rows)
    made = facts.get("provenance") or {}
    card = described.get("card") or {}
    kind = "study" if manifest else "hardening" if card else "evaluation" if facts else "rows"
    datasets: dict[str, Any] = {row.dataset: {} for row in rows}
    return Source(
        kind=kind, rows=rows, right=right, finished=finished, groups=_groups(facts) if right else {},
        attacks=made.get("attacks") or {},
        data=datasets | _data(made, card, manifest),
        model=made.get("model") or {},
        training=_training(card, described, manifest),
        checks=_mapping(folder / CHECKS) or _card_checks(card),
        verdict=_mapping(folder / VERDICT) or None, comparison=_mapping(folder / COMPARISON) or None,
        versions=made.get("versions") or card.get("versions") or manifest.get("versions") or {},
        warnings=facts.get("warnings") or card.get("warnings") or (), notes=facts.get("notes") or (),
    )  # fmt: skip


def _mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object: delete it")
    return value


def _outcomes(folder: Path, rows: Sequence[Row]) -> tuple[dict[str, NDArray[np.bool_]], dict[str, NDArray[np.bool_]]]:
    """Right and finished by the key of a row: per-image results where they are there, else the records."""
    right = read_records(folder / RECORDS) if (folder / RECORDS).is_file() else {}
    finished = {key: np.ones(len(each), dtype=np.bool_) for key, each in right.items()}
    arrays = read_arrays(folder / PER_IMAGE) if (folder / PER_IMAGE).is_file() else {}
    if arrays and len(arrays["right"]) == len(rows):
        right |= {row.key: arrays["right"][place] for place, row in enumerate(rows)}
        finished |= {row.key: arrays["finished"][place] for place, row in enumerate(rows)}
    elif arrays:
        raise InputError(f"{folder / PER_IMAGE} does not fit {RESULTS}: run the job again")
    return right, finished


def _groups(facts: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    labels, classes = facts.get("labels") or (), facts.get("classes") or ()
    names = [classes[number] if number < len(classes) else number for number in labels]
    return named_groups(({BY_CLASS: names} if names else {}) | (facts.get("groups") or {}), len(labels))


def _data(made: Mapping[str, Any], card: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    if made.get("data"):
        known = made["data"]
        return {known["name"]: {name: known.get(name) for name in ("digest", "n", "image", "classes")}}
    if card:
        return {card["dataset"]: {"digest": card["digest"], "image_size": card["image_size"]}}
    kept = ("digest", "kind", "classes", "skipped", "notes")
    datasets = manifest.get("datasets") or {}
    return {name: {key: facts[key] for key in kept if key in facts} for name, facts in datasets.items()}


def _training(card: Mapping[str, Any], described: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    if card:
        return {"threat": described.get("threat"), **card["training"]}
    return {"arms": manifest["study"].get("arms"), "methods": manifest["study"].get("methods")} if manifest else {}


def _card_checks(card: Mapping[str, Any]) -> dict[str, Any] | None:
    return (
        {"threat": {"norm": card["norm"], "eps": card["eps"]}, "checks": card["checks"]} if card.get("checks") else None
    )
