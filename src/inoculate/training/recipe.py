"""The `Recipe`: how long and how a network is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from inoculate.models.acceleration.hardware import prefers_bf16


@dataclass(frozen=True)
class Recipe:
    """How long and how to train: `updates` optimiser steps of `batch_size` samples, in `rounds` equal parts.

    After each round the model is validated and a checkpoint is written. The best round's weights are restored at the
    end.

    accumulate: into how many parts a batch is divided that does not fit into memory at once. lr: the peak of the
    schedule. patience: end after that many rounds without improvement in the second half (None: never). augment: a
    policy of `inoculate.data.augment`. precision: `auto` is bf16 where the device is faster in it. compile: compile
    the network first (torch.compile), about a minute, which pays for long trainings on a GPU.

    For adversarial methods: average: decay of the weights' exponential moving average (0: none), which is then
    validated and kept. warmup: the fraction of the training over which eps grows (the method does it; the monitors
    must know). val_images: how many validation images are attacked after each round. stop_on_failure: end the training
    when a monitor detects a failure. certify: validate what interval bounds prove, in place of an attack.
    """

    updates: int
    rounds: int = 1
    batch_size: int = 64
    accumulate: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 2e-3
    weight_decay: float = 0.01
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    patience: int | None = None
    augment: str = "none"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False
    average: float = 0.0
    warmup: float = 0.0
    val_images: int = 512
    stop_on_failure: bool = True
    certify: bool = False

    def updates_of_round(self, number: int) -> range:
        """The updates of a round, both counted from 0."""
        return range(number * self.updates // self.rounds, (number + 1) * self.updates // self.rounds)


def updates_in(epochs: float, size: int, batch_size: int) -> int:
    """Updates of `batch_size` samples in so many passes over `size` of them, at least one."""
    return max(1, round(epochs * size / batch_size))


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over all parameters, fused into one kernel."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay, fused=True
    )


def make_scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe) -> torch.optim.lr_scheduler.LRScheduler:
    """The recipe's learning-rate schedule, stepped after every update."""
    if recipe.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=recipe.updates)
    # One update more than are made, because the scheduler refuses the step after the last; and at least five, because
    # with four its first phase has no length.
    steps = max(recipe.updates + 1, 5)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps, pct_start=0.25)


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The recipe's precision, for the time of a block.

    bf16 weights are not cached from pass to pass: a method may change the weights in between (AWP, free).
    """
    bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and prefers_bf16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16, cache_enabled=False)
