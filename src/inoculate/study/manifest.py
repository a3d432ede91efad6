"""The manifest of a study's run: what was run, on what, with which versions, and how long each step took."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from inoculate.artifacts.files import read_json
from inoculate.artifacts.versions import versions
from inoculate.study.measurements import Measurements
from inoculate.study.specs import Specs


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
    """Per dataset: source, content hash, skipped files, notes, and per seed the artefact with the split's indices.

    `earlier`: the same of an earlier run, whose splits need not be in the store any more.
    """
    found = {}
    for name, source in specs.sources.items():
        before, facts, indices = earlier.get(name, {}), dict[str, Any](), {}
        for seed in specs.study.seeds:
            artefact = f"split/{specs.store.path('split', specs.split(name, seed)).name}"
            if folder := specs.store.find("split", specs.split(name, seed)):
                facts = read_json(folder / "split.json")
                indices[str(seed)] = artefact
            elif before.get("indices", {}).get(str(seed)) == artefact:
                facts = facts or {key: before[key] for key in before if key not in ("source", "kind", "indices")}
                indices[str(seed)] = artefact
        found[name] = {"source": source.location, "kind": source.kind, "indices": indices, **facts}
    return found
