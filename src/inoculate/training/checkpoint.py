"""What of a training is saved after each round, so that an interrupted one resumes with the same result."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from pickle import UnpicklingError  # what a damaged file raises; nothing is unpickled here

import torch
from torch import nn

from inoculate.artifacts.files import write_file
from inoculate.core.errors import InputError
from inoculate.models.loading.checkpoints import load_weights
from inoculate.training.ema import EMA
from inoculate.training.methods.base import Method, Stateful
from inoculate.training.recipe import Recipe, make_optimizer, make_scheduler

CHECKPOINT, BEST = "checkpoint.pt", "best.safetensors"
History = list[dict[str, float]]


@dataclass(eq=False)
class TrainerState:
    """Everything of a training that changes: weights, optimiser, schedule, averaged weights, methods, history.

    methods: the update, and under `fallback` the one that replaces it after a failure.
    """

    model: nn.Module
    recipe: Recipe
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    ema: EMA | None
    methods: dict[str, Method]
    history: History = field(default_factory=list)

    @classmethod
    def start(cls, model: nn.Module, recipe: Recipe, methods: dict[str, Method]) -> TrainerState:
        """The state before the first update."""
        optimizer = make_optimizer(model, recipe)
        return cls(model, recipe, optimizer, make_scheduler(optimizer, recipe), _ema(model, recipe), methods)

    def restart_from(self, weights: Path) -> None:
        """Load earlier weights and forget what was gathered on later ones: optimiser moments and averaged weights."""
        load_weights(weights, self.model)
        self.optimizer.state.clear()
        self.ema = _ema(self.model, self.recipe)

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        write_file(path, partial(torch.save, {**state, "history": self.history}))

    def resume(self, path: Path) -> None:
        """Load a checkpoint; without one that can be read the state stays as it is.

        Raises `InputError` if the checkpoint is of another network.
        """
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
        except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError):  # missing or damaged
            return
        parts = self._parts()
        if not isinstance(state, dict) or not {*parts, "history"} <= set(state):
            return
        try:
            for name, part in parts.items():
                part.load_state_dict(state[name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(f"{path} is of another network: remove it to train from the start") from error
        self.history = state["history"]

    def _parts(self) -> dict[str, Stateful]:
        parts: dict[str, object] = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        parts |= {"ema": self.ema, **self.methods}
        return {name: part for name, part in parts.items() if isinstance(part, Stateful)}


def _ema(model: nn.Module, recipe: Recipe) -> EMA | None:
    return EMA(model, recipe.average, recipe.accumulate) if recipe.average else None
