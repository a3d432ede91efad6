"""The manifest of a study's run: what was run, on what, with which versions, and how long each step took."""

from __future__ import annotations

import platform
from typing import Any

from inoculate.artifacts.files import read_json
from inoculate.artifacts.versions import versions
from inoculate.study.measurements import Measurements
from inoculate.study.specs import Specs


def manifest_of(specs: Specs, measured: Measurements, device: str) -> dict[str, Any]:
    """The manifest as JSON values; the device is named only if something was computed."""
    used = device if measured.made else None
    return {
        "study": specs.study.model_dump(mode="json"),
        "versions": versions(),
        "machine": {"platform": platform.platform(), "processor": platform.machine(), "device": used},
        "datasets": _splits(specs),
        "surrogates": measured.surrogates,
        "parameters": measured.parameters,
        "cells": measured.cells,
    }


def _splits(specs: Specs) -> dict[str, Any]:
    """Per dataset: source, content hash, skipped files, notes, and per seed the artefact with the split's indices."""
    found = {}
    for name, source in specs.sources.items():
        folders = {seed: specs.store.find("split", specs.split(name, seed)) for seed in specs.study.seeds}
        known = {str(seed): folder for seed, folder in folders.items() if folder}
        facts = read_json(next(iter(known.values())) / "split.json") if known else {}
        indices = {seed: f"split/{folder.name}" for seed, folder in known.items()}
        found[name] = {"source": source.location, "kind": source.kind, "indices": indices, **facts}
    return found
