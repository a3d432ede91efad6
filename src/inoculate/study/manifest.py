"""The manifest of a run: what was run, on what, with which versions, and how long each step took."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from inoculate.artifacts.files import write_json
from inoculate.artifacts.store import MANIFEST
from inoculate.artifacts.versions import versions
from inoculate.study.run import Run


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
