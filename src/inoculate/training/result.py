"""The result of the job `train`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from torch import nn

from inoculate.artifacts.files import read_json, write_json
from inoculate.artifacts.output import RUN
from inoculate.models.loading.checkpoints import DESCRIPTION, MODEL_FOLDER, ModelSpec
from inoculate.models.loading.network import Network, reload_network
from inoculate.training.methods.names import STANDARD
from inoculate.training.monitors import History, best_round

_SHOWN = ("round", "update", "loss", "accuracy", "val_loss", "val_accuracy", "val_robust", "val_certified")


@dataclass(frozen=True, eq=False, repr=False)
class Training:
    """A trained classifier and how it was trained.

    Fields:
        network: the classifier, and how it is rebuilt.
        history: one entry per validation round: round, update, loss, accuracy, val_loss, val_accuracy, and for an
            adversarial method val_robust, the accuracy under `ShortEnsemble` on validation images.
        facts: method, threat, seed and digest of the data, as JSON values.
        warnings: what went wrong, in words.
        reused: whether the output folder held this very training before.
    """

    network: Network
    history: History
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    reused: bool = False

    @property
    def model(self) -> nn.Module:
        """The classifier, in eval mode: float images in [0, 1], B×C×H×W → logits."""
        return self.network.model

    @property
    def spec(self) -> ModelSpec | None:
        """How the network is built; None for a module that was passed."""
        return self.network.spec

    @property
    def method(self) -> str:
        """The name of the training method."""
        return str(self.facts.get("method", {}).get("method", STANDARD))

    @property
    def best(self) -> dict[str, float]:
        """The entry of the round whose weights were kept."""
        return self.history[best_round(self.history)]

    def table(self) -> dict[str, list[float | None]]:
        """The history as columns of equal length: `pandas.DataFrame(training.table())`."""
        names = dict.fromkeys(name for entry in self.history for name in entry)
        return {name: [entry.get(name) for entry in self.history] for name in names}

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write weights, description and history into `folder`, which every command reads as a model; returns it."""
        folder = Path(folder)
        self.write(folder)
        write_json(folder / MODEL_FOLDER.completion, self.history)
        return folder

    def write(self, folder: Path) -> None:
        """Write weights and description into `folder`."""
        warnings = {"warnings": list(self.warnings)} if self.warnings else {}
        self.network.save(folder, **self.facts, **warnings)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], model: nn.Module | None = None) -> Training:
        """What `save` or `train` wrote into `folder`. `model`: for weights of a module of yours, built as before.

        Raises `InputError` if the folder is incomplete or was altered.
        """
        folder = Path(folder)
        network = reload_network(folder, module=model)
        described = read_json(folder / DESCRIPTION)
        facts = {name: described[name] for name in (RUN, "seed", "data", "reading", "method", "threat", "fallback")
                 if name in described}  # fmt: skip
        return cls(network, read_json(folder / MODEL_FOLDER.completion), facts, tuple(described.get("warnings", ())))

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write one HTML page of the training to `path`; returns it."""
        from inoculate import write_report  # lies above this room

        return write_report(self, path)

    @property
    def title(self) -> str:
        """What was trained, how, and how well."""
        return f"{self.network.name}, {self.method}: validation accuracy {self.best['val_accuracy']:.1%}"

    def __repr__(self) -> str:
        return "\n".join([self.title, *(f"  warning: {message}" for message in self.warnings)])

    def _repr_html_(self) -> str:
        """The history as a table, for notebooks."""
        shown = [name for name in _SHOWN if name in self.history[-1]]
        lines = ["".join(f"<th>{name}</th>" for name in shown)]
        lines += ["".join(f"<td>{entry[name]:.4g}</td>" for name in shown) for entry in self.history]
        body = "".join(f"<tr>{line}</tr>\n" for line in lines)
        return f"<table>\n<caption>{escape(self.title)}</caption>\n{body}</table>"
