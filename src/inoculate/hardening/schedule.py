"""How to spend a given time on hardening: a method and as many updates of it as the time buys."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from inoculate.core.modes import device_of, has_batchnorm
from inoculate.core.threat import Threat
from inoculate.models.acceleration.hardware import set_memory_format
from inoculate.training.methods.adversarial import PGDAT, AdversarialMethod
from inoculate.training.methods.registry import MethodSpec, get_method
from inoculate.training.samples import TrainingSet
from inoculate.training.trainer import Recipe, arithmetic, batch_indices, make_optimizer

COMMON_OPTIONS: dict[str, Any] = {"warmup": 0.3, "average": 0.998}
Ladder = tuple[tuple[str, dict[str, Any], float], ...]
# From the strongest: a method, its options, and the passes over the training images below which something cheaper that
# sees them more often serves better. The figures behind it are in docs/defences.md.
LADDER: Ladder = (
    ("trades", {"beta": 6.0, "steps": 10, "step": 0.25}, 20),
    ("pgd_at", {"steps": 10, "step": 0.25}, 10),
    ("pgd_at", {"steps": 5, "step": 0.35}, 5),
    ("pgd_at", {"steps": 2, "step": 0.7}, 2),
    ("fgsm_rs", {}, 0),
)
SMALL = 8 / 255  # L∞: beyond, training on a single step is known to collapse (Andriushchenko and Flammarion 2020)
SMALL_LADDER: Ladder = (
    ("fgsm_rs_then_pgd", {"awp": 0.005, "weight_decay": 0.3}, 20),
    ("fgsm_rs", {}, 0),
)
# More is learnt by heart: epochs of the first ladder and of the second, and updates where images are few.
ENOUGH_EPOCHS, ENOUGH_SMALL, ENOUGH_UPDATES = 100, 50, 700
SPARE = 0.85  # of the time goes into updates: the rest is for validation, and for a machine that slows down
TRIALS = 3  # updates timed after one that warms up


@dataclass(frozen=True)
class Schedule:
    """A method, how many updates of it, and why."""

    choice: MethodSpec
    updates: int
    reason: str


def seconds_per_pass(model: nn.Module, data: TrainingSet, threat: Threat, batch_size: int, lr: float) -> float:
    """What one forward-backward pass over a batch takes here, from a few real updates of a copy of `model`."""
    twin, device, recipe = copy.deepcopy(model), device_of(model), Recipe(1, lr=lr)
    layout = set_memory_format(twin, data.batch(torch.zeros(1, dtype=torch.int64))[0].to(device))
    optimizer = make_optimizer(twin, recipe)
    method, seconds = AdversarialMethod(PGDAT(steps=3), threat), []
    twin.train()
    for number in range(TRIALS + 1):
        x, y, _ = data.batch(batch_indices(len(data), batch_size, number, 0))
        x, y = x.to(device, memory_format=layout), y.to(device)
        began = time.perf_counter()
        with arithmetic(recipe, device):
            method(twin, optimizer, x, y, generator=torch.Generator().manual_seed(number))
        seconds.append(time.perf_counter() - began)
    return sorted(seconds[1:])[TRIALS // 2] / PGDAT(steps=3).passes


def ladder_for(threat: Threat, model: nn.Module) -> list[tuple[MethodSpec, float]]:
    """Methods from the strongest, each with the fewest epochs that make it worth while.

    Strong weight decay helps networks with BatchNorm, which do not care how large their weights are; others it harms.
    """
    rungs = SMALL_LADDER if _small(threat) else LADDER
    ladder = [(get_method(name, **options, **COMMON_OPTIONS), least) for name, options, least in rungs]
    if has_batchnorm(model):
        return ladder
    return [(replace(each, common=replace(each.common, weight_decay=None)), least) for each, least in ladder]


def enough(threat: Threat, epoch: float) -> float:
    """Updates beyond which more made networks no better, or worse; `epoch` as in `choose`."""
    return max((ENOUGH_SMALL if _small(threat) else ENOUGH_EPOCHS) * epoch, ENOUGH_UPDATES)


def choose(
    seconds: float, per_pass: float, epoch: float, ladder: Sequence[tuple[MethodSpec, float]], most: float = math.inf
) -> Schedule:
    """The first method of a ladder (`ladder_for`) that `seconds` buy enough of.

    `per_pass` are the seconds of one forward-backward pass over a batch, `epoch` the number of batches in a pass over
    the images. No more than `most` updates (`enough`) are made of it.
    """
    for choice, least in ladder:
        updates = max(1, int(SPARE * seconds / (per_pass * choice.passes)))
        if updates / epoch >= least:
            break
    why = f", the strongest method that gets at least {least:g} epochs" if least else ""
    less = round(min(most, updates))
    rest = "" if less == updates else f"; {less} are made ({less / epoch:.1f} epochs), more is only learnt by heart"
    few = "" if updates >= epoch else "; that is not one pass over the images: give more time"
    steps_each = f"{choice.defence.steps} steps, " if hasattr(choice.defence, "steps") else ""
    return Schedule(
        choice,
        less,
        f"a pass over a batch takes {1000 * per_pass:.0f} ms here, so {seconds / 60:.3g} min buy {updates} updates "
        f"({updates / epoch:.1f} epochs) of {choice.name} ({steps_each}{choice.passes:.3g} passes an update)"
        f"{why}{rest}{few}",
    )


def _small(threat: Threat) -> bool:
    return threat.norm == "linf" and threat.eps <= SMALL
