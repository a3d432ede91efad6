"""An evaluation's folder with per-image results, made by hand: image i breaks at the eps given for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from report_samples import row

from inoculate.artifacts.files import write_json
from inoculate.artifacts.rows import write_records, write_rows

CLASSES = ("cat", "dog")


def recorded(
    folder: Path,
    breaks_at: Sequence[float],
    model: str = "net",
    attacks: Sequence[str] = ("fgsm", "pgd"),
    epsilons: Sequence[float] = (0.01, 0.03),
    checks: Sequence[bool | None] = (True,),
) -> Path:
    """Images of both classes in turn; every attack breaks the same ones, and takes them for the other class."""
    at = np.array(breaks_at)
    labels = np.arange(len(at)) % 2
    conditions = [("none", 0.0), *((attack, eps) for attack in attacks for eps in epsilons)]
    right = np.array([at > eps for _, eps in conditions])
    rows = [
        row(model, "standard", attack, eps, int(mine.sum()), len(at))
        for (attack, eps), mine in zip(conditions, right, strict=True)
    ]
    write_rows(folder / "results.json", rows)
    write_records(folder / "records.npz", {each.key: mine for each, mine in zip(rows, right, strict=True)})
    arrays = {
        "right": right,
        "finished": np.ones_like(right),
        "predicted": np.where(right, labels, 1 - labels),
        "broken_by": np.where(right | ~right[:1], -1, 0),
    }
    np.savez(folder / "per_image.npz", **arrays)
    wrong = np.flatnonzero(at <= max(epsilons))[:6]
    np.savez(folder / "thumbnails.npz", numbers=wrong, pixels=np.full((len(wrong), 8, 8, 1), 90, np.uint8))
    facts = {
        "labels": labels.tolist(),
        "classes": CLASSES,
        "sources": [],
        "warnings": [],
        "results": [{"names": [attack]} for attack, _ in conditions],
    }
    write_json(folder / "evaluation.json", facts)
    found = [{"name": f"check {i}", "passed": passed, "message": "…"} for i, passed in enumerate(checks)]
    if found:
        write_json(folder / "checks.json", {"threat": {"norm": "linf", "eps": 0.03}, "checks": found})
    return folder
