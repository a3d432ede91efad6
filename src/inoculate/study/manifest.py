"""The manifest of a study's run: what was run, on what, with which versions, and how long each step took."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import numpy as np

from inoculate.artifacts.files import read_json
from inoculate.artifacts.versions import versions
from inoculate.study.measurements import Measurements
from inoculate.study.specs import Specs
from inoculate.study.steps.split import LABELS


def manifest_of(specs: Specs, measured: Measurements, device: str) -> dict[str, Any]:
    """The manifest as JSON values; the device is named only if something was computed.

    `earlier`: versions and machines of the runs that measured what was kept.
    """
    used = device if measured.made else None
    own = {
        "versions": versions(),
        "machine": {"platform": platform.platform(), "processor": platform.machine(), "device": used},
    }
    return {
        "study": specs.study.model_dump(mode="json"),
        **own,
        "earlier": [maker for maker in measured.kept.makers if maker != own],
        "datasets": _splits(specs, measured.kept.result.manifest.get("datasets", {})),
        "surrogates": measured.surrogates,
        "parameters": measured.parameters,
        "cells": measured.cells,
    }


def _splits(specs: Specs, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Per dataset its source, content hash, classes, skipped files and notes; per seed the split's artefact and labels.

    The labels are those of the tested images in the order of the records, as one text with spaces: a line of the file.

    `earlier`: the same of an earlier run, whose splits need not be in the store any more.
    """
    found = {}
    for name, source in specs.sources.items():
        before, facts, indices, labels = earlier.get(name, {}), dict[str, Any](), {}, {}
        for seed in specs.study.seeds:
            artefact = f"split/{specs.store.path('split', specs.split(name, seed)).name}"
            if folder := specs.store.find("split", specs.split(name, seed)):
                facts = read_json(folder / "split.json")
                indices[str(seed)] = artefact
                tested = np.load(folder / LABELS, allow_pickle=False)[: specs.study.evaluation.images]
                labels[str(seed)] = " ".join(map(str, tested.tolist()))
            elif before.get("indices", {}).get(str(seed)) == artefact:
                own = ("source", "kind", "indices", "labels")
                facts = facts or {key: before[key] for key in before if key not in own}
                indices[str(seed)] = artefact
                if kept := before.get("labels", {}).get(str(seed)):
                    labels[str(seed)] = kept
        found[name] = {"source": source.location, "kind": source.kind, "indices": indices, "labels": labels, **facts}
    return found
