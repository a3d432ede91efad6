"""Experiment trackers by name, through accelerate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inoculate.core.errors import InputError
from inoculate.core.extras import is_installed, require
from inoculate.core.options import require_one_of

TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")


class Tracker:
    """Scalars of one run of `project`, logged by the tracker called `name`; `config` holds its settings.

    TensorBoard writes into `folder`, the others as they are configured. Raises `InputError` for an unknown name, or if
    a package is not installed.
    """

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any], project: str = "inoculate") -> None:
        require_one_of(TRACKERS, tracker=name)
        if not is_installed(name):
            raise InputError(f"tracker '{name}' is not installed: pip install {name}, or leave the tracker out")
        require("accelerate", "trackers", "logging to a tracker")
        from accelerate import Accelerator

        self._accelerator = Accelerator(cpu=True, log_with=name, project_dir=str(folder))
        self._accelerator.init_trackers(project, config=_flat(config))

    def log(self, values: Mapping[str, float], update: int) -> None:
        """Log scalars as of one update."""
        self._accelerator.log(dict(values), step=update)

    def close(self) -> None:
        """Write out what is still in memory."""
        for tracker in self._accelerator.trackers:  # end_training would also destroy the process group
            tracker.finish()


def default_tracker() -> str | None:
    """TensorBoard if it and accelerate are installed."""
    return "tensorboard" if is_installed("tensorboard") and is_installed("accelerate") else None


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, int | float | str | bool]:
    """Nested values under dotted names, as every tracker takes them."""
    found: dict[str, int | float | str | bool] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, int | float | str) else str(value)
    return found
