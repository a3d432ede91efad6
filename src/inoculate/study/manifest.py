"""The manifest of a run: what was run, on what, with which versions, and how long each step took."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from inoculate.artifacts.files import write_json
from inoculate.artifacts.store import MANIFEST
from inoculate.study.run import Run

LIBRARIES = ("inoculate", "torch", "torchvision", "timm", "kornia", "datasets", "numpy", "safetensors", "pillow")


def write_manifest(folder: Path, run: Run) -> None:
    """Write `manifest.json` into the run's folder."""
    write_json(folder / MANIFEST, _manifest(run))


def _manifest(run: Run) -> dict[str, Any]:
    return {
        "study": run.study.model_dump(mode="json"),
        "versions": versions(),
        "machine": {"platform": platform.platform(), "processor": platform.machine(), "device": run.device},
        "datasets": run.splits(),
        "surrogates": run.surrogates,
        "parameters": run.parameters,
        "cells": run.cells,
    }


def versions() -> dict[str, str | None]:
    """Versions of what a number depends on."""
    return {name: _version(name) for name in LIBRARIES} | {"python": sys.version.split()[0]}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
