"""Experiment trackers by name, through accelerate: a training's numbers go where its user looks at them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inoculate.core.errors import InputError, suggest

TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")


class Tracker:
    """Scalars of one run of `project`, logged by the tracker called `name`; `config` is what was asked for.

    TensorBoard writes into `folder`; the others where their own settings say. Raises `InputError` for an unknown name,
    or if the tracker's package is not installed.
    """

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any], project: str = "inoculate") -> None:
        from accelerate import Accelerator

        if name not in TRACKERS:
            raise InputError(f"tracker '{name}' is unknown: {suggest(name, TRACKERS)}")
        if not installed(name):
            raise InputError(f"tracker '{name}' is not installed: pip install {name}, or leave --tracker out")
        self._accelerator = Accelerator(cpu=True, log_with=name, project_dir=str(folder))
        self._accelerator.init_trackers(project, config=_flat(config))

    def log(self, values: Mapping[str, float], update: int) -> None:
        """Log scalars as of one update."""
        self._accelerator.log(dict(values), step=update)

    def close(self) -> None:
        """Write out what is still in memory."""
        for tracker in self._accelerator.trackers:  # end_training would also part this process from the others
            tracker.finish()


def installed(name: str) -> bool:
    """Whether the tracker's package can be imported."""
    from importlib.util import find_spec

    return find_spec(name) is not None


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, int | float | str | bool]:
    """Nested values under dotted names, as every tracker takes them."""
    found: dict[str, int | float | str | bool] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, int | float | str) else str(value)
    return found
