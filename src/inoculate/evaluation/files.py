"""The files of a saved evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inoculate.artifacts.arrays import read_arrays, write_arrays
from inoculate.artifacts.files import read_json, write_json
from inoculate.artifacts.rows import read_rows, write_records, write_rows
from inoculate.core.errors import InputError
from inoculate.core.row import Row
from inoculate.core.threat import Threat
from inoculate.evaluation.checks import Check
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.thumbnails import Thumbnails

RESULTS, RECORDS, CHECKS = "results.json", "records.npz", "checks.json"
FACTS, PER_IMAGE, IMAGES = "evaluation.json", "per_image.npz", "images.npz"
THUMBNAILS = "thumbnails.npz"
_ARRAYS = ("right", "predicted", "margin", "distance", "broken_by", "finished")
_AUDIT = ("terminated", "audited")


def save_results(
    folder: Path, rows: Sequence[Row], per_image: Mapping[Row, PerSampleResult], facts: Mapping[str, Any]
) -> None:
    """Write rows, per-image results and `facts` (JSON values) into `folder`, in place of earlier ones."""
    results = [per_image[row] for row in rows]
    whole = {row.key: per_image[row].right.numpy() for row in rows if bool(per_image[row].finished.all())}
    write_records(folder / RECORDS, whole)
    names = _ARRAYS + _AUDIT
    arrays = {name: np.stack([getattr(each, name).numpy() for each in results]) for name in names} if results else {}
    for place, each in enumerate(results):
        if each.target is not None:
            arrays[f"target {place}"] = each.target.numpy()
    write_arrays(folder / PER_IMAGE, arrays)
    images = {str(place): each.images.numpy() for place, each in enumerate(results) if each.images is not None}
    if images:
        write_arrays(folder / IMAGES, images)
    else:
        (folder / IMAGES).unlink(missing_ok=True)
    described = [
        {"eps": each.eps, "seconds": each.seconds, "names": list(each.names), "queries": each.queries}
        for each in results
    ]
    write_json(folder / FACTS, {**facts, "results": described})
    write_rows(folder / RESULTS, rows)


def load_results(folder: Path) -> tuple[list[Row], dict[Row, PerSampleResult], dict[str, Any]]:
    """The rows, per-image results and facts that `save_results` wrote.

    Raises `InputError` for a file that is missing, damaged or of another run.
    """
    rows, facts = read_rows(folder / RESULTS), read_json(folder / FACTS)
    arrays = read_arrays(folder / PER_IMAGE)
    images = read_arrays(folder / IMAGES) if (folder / IMAGES).is_file() else {}
    arrays |= {name: np.zeros_like(arrays["finished"]) for name in _AUDIT if name not in arrays and arrays}
    described = facts.get("results", ()) if isinstance(facts, dict) else ()
    if len(described) != len(rows) or (rows and any(len(arrays.get(name, ())) != len(rows) for name in _ARRAYS)):
        raise InputError(f"{folder / FACTS} and {PER_IMAGE} do not fit {RESULTS}: delete the folder and run again")
    per_image = {}
    for place, (row, each) in enumerate(zip(rows, described, strict=True)):
        tensors = {name: torch.from_numpy(arrays[name][place]) for name in _ARRAYS + _AUDIT}
        kept = torch.from_numpy(images[str(place)]) if str(place) in images else None
        target = arrays.get(f"target {place}")
        if target is not None:
            tensors["target"] = torch.from_numpy(target)
        per_image[row] = PerSampleResult(
            each["eps"],
            each["seconds"],
            **tensors,
            names=tuple(each["names"]),
            images=kept,
            queries=each.get("queries"),
        )
    return rows, per_image, facts


def save_checks(folder: Path, checks: Sequence[Check], threat: Threat | None) -> None:
    """Write the checks and the threat at which they were made, in place of any others."""
    if not checks or threat is None:
        (folder / CHECKS).unlink(missing_ok=True)
        return
    write_json(folder / CHECKS, {"threat": threat.as_dict(), "checks": [asdict(check) for check in checks]})


def load_checks(folder: Path) -> tuple[list[Check], Threat | None]:
    """What `save_checks` wrote, if it wrote anything."""
    if not (folder / CHECKS).is_file():
        return [], None
    found = read_json(folder / CHECKS)
    return [Check(**each) for each in found["checks"]], Threat.from_dict(found["threat"])


def save_thumbnails(folder: Path, thumbnails: Thumbnails) -> None:
    """Write the small images, in place of any others."""
    if len(thumbnails.numbers):
        write_arrays(folder / THUMBNAILS, {"numbers": thumbnails.numbers, "pixels": thumbnails.pixels})
    else:
        (folder / THUMBNAILS).unlink(missing_ok=True)


def load_thumbnails(folder: Path) -> Thumbnails:
    """What `save_thumbnails` wrote, if it wrote anything."""
    if not (folder / THUMBNAILS).is_file():
        return Thumbnails.none()
    return Thumbnails(**read_arrays(folder / THUMBNAILS))
