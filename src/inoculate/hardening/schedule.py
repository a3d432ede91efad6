"""Method and number of updates for a training budget."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from inoculate.core.copying import copy_module
from inoculate.core.modes import device_of, has_batchnorm
from inoculate.core.threat import Threat
from inoculate.models.acceleration.hardware import set_memory_format
from inoculate.training.batches import batch_indices
from inoculate.training.methods.adversarial import AdversarialMethod
from inoculate.training.methods.pgd_at import PGDAT
from inoculate.training.methods.registry import MethodSpec, get_method
from inoculate.training.recipe import Recipe, autocast, make_optimizer, updates_in
from inoculate.training.samples import TrainingSet

COMMON_OPTIONS: dict[str, Any] = {"warmup": 0.3, "average": 0.998}
SMALL_EPS = 8 / 255  # L∞: above it, one-step training is known to collapse (Andriushchenko and Flammarion 2020)
# Beyond these epochs, or updates where images are few, robust accuracy on test images stopped growing or fell (robust
# overfitting, Rice et al. 2020).
MAX_EPOCHS, MAX_EPOCHS_SMALL_EPS, MIN_UPDATE_LIMIT = 100, 50, 700
TRAINING_SHARE = 0.85  # of the budget; the rest is for validation, and for a machine that slows down
TIMED_UPDATES = 3  # after one that warms up


@dataclass(frozen=True)
class Rung:
    """A method, and the epochs below which the cheaper methods after it reach a higher robust accuracy."""

    method: MethodSpec
    min_epochs: float


@dataclass(frozen=True)
class Schedule:
    """A method, its number of optimiser updates, and the reason in words."""

    method: MethodSpec
    updates: int
    reason: str


@dataclass(frozen=True)
class Cost:
    """Seconds per forward-backward pass over a batch, and batches per epoch."""

    per_pass: float
    updates_per_epoch: float


def seconds_per_pass(model: nn.Module, data: TrainingSet, threat: Threat, batch_size: int, lr: float) -> float:
    """The time of one forward-backward pass over a batch on this machine: the median over updates of a copy."""
    network, device, recipe = copy_module(model), device_of(model), Recipe(1, lr=lr)
    layout = set_memory_format(network, data.batch(torch.zeros(1, dtype=torch.int64))[0].to(device))
    optimizer = make_optimizer(network, recipe)
    update, seconds = AdversarialMethod(PGDAT(steps=3), threat), []
    network.train()
    for number in range(TIMED_UPDATES + 1):
        x, y, _ = data.batch(batch_indices(len(data), batch_size, number, 0))
        x, y = x.to(device, memory_format=layout), y.to(device)
        began = time.perf_counter()
        with autocast(recipe, device):
            update(network, optimizer, x, y, generator=torch.Generator().manual_seed(number))
        seconds.append(time.perf_counter() - began)
    return sorted(seconds[1:])[TIMED_UPDATES // 2] / PGDAT(steps=3).passes


def ladder_for(threat: Threat, model: nn.Module) -> list[Rung]:
    """The methods for a threat model, strongest first (figures: the documentation's benchmarks of defences).

    Strong weight decay is kept for networks with BatchNorm, which are invariant to the scale of their weights; it harms
    other networks.
    """

    def rung(min_epochs: float, name: str, **options: Any) -> Rung:
        return Rung(get_method(name, **options, **COMMON_OPTIONS), min_epochs)

    if not _has_small_eps(threat):
        return [
            rung(20, "trades", beta=6.0, steps=10, step=0.25),
            rung(10, "pgd_at", steps=10, step=0.25),
            rung(5, "pgd_at", steps=5, step=0.35),
            rung(2, "pgd_at", steps=2, step=0.7),
            rung(0, "fgsm_rs"),
        ]
    decay = {"weight_decay": 0.3} if has_batchnorm(model) else {}
    return [rung(20, "fgsm_rs_then_pgd", awp=0.005, **decay), rung(0, "fgsm_rs")]


def max_updates(threat: Threat, updates_per_epoch: float) -> float:
    """The number of updates beyond which longer training did not raise robust accuracy, or lowered it."""
    epochs = MAX_EPOCHS_SMALL_EPS if _has_small_eps(threat) else MAX_EPOCHS
    return max(epochs * updates_per_epoch, MIN_UPDATE_LIMIT)


def default_method() -> MethodSpec:
    """The method for a given number of epochs where none is named."""
    return get_method("pgd_at", **COMMON_OPTIONS)


def schedule_epochs(method: MethodSpec, epochs: int, images: int, batch_size: int) -> Schedule:
    """A given number of passes over the training images by a given method."""
    updates = updates_in(epochs, images, batch_size)
    return Schedule(method, updates, f"{epochs} epochs, {updates} updates")


def schedule_budget(seconds: float, cost: Cost, ladder: Sequence[Rung], limit: float = math.inf) -> Schedule:
    """The first method of a ladder that gets its `min_epochs` within `seconds`, with at most `limit` updates."""
    for rung in ladder:
        affordable = max(1, int(TRAINING_SHARE * seconds / (cost.per_pass * rung.method.passes)))
        if affordable / cost.updates_per_epoch >= rung.min_epochs:
            break
    updates = round(min(limit, affordable))
    return Schedule(rung.method, updates, _reason(seconds, cost, rung, affordable, updates))


def _reason(seconds: float, cost: Cost, rung: Rung, affordable: int, updates: int) -> str:
    method, epoch = rung.method, cost.updates_per_epoch
    steps = f"{method.spec['steps']} steps, " if "steps" in method.spec else ""
    reason = (
        f"a forward-backward pass over a batch takes {1000 * cost.per_pass:.0f} ms on this machine, so "
        f"{seconds / 60:.3g} min allow {affordable} updates ({affordable / epoch:.1f} epochs) of {method.name} "
        f"({steps}{method.passes:.3g} passes per update)"
    )
    if rung.min_epochs:
        reason += f", the strongest method that gets at least {rung.min_epochs:g} epochs"
    if updates < affordable:
        reason += f"; limited to {updates} updates ({updates / epoch:.1f} epochs) to avoid robust overfitting"
    if affordable < epoch:
        reason += "; that is less than one pass over the images: give a larger budget"
    return reason


def _has_small_eps(threat: Threat) -> bool:
    return threat.norm == "linf" and threat.eps <= SMALL_EPS
