"""Small images, networks and plans for the tests of training."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from digits_samples import every_digit
from torch import nn

from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.training.checkpoint import History
from inoculate.training.methods.base import Method, standard
from inoculate.training.plan import TrainingPlan
from inoculate.training.recipe import Recipe
from inoculate.training.samples import TrainingSet
from inoculate.training.trainer import fit

RECIPE = Recipe(updates=30, rounds=3, batch_size=16, lr=0.01, augment="digits")


@lru_cache
def blocks() -> Dataset:
    """120 grey images, 8×8, of three classes that differ in brightness."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    images = torch.randint(0, 90, (120, 1, 8, 8), generator=g)
    images += labels.view(-1, 1, 1, 1) * 60
    return Dataset.from_tensors(images.to(torch.uint8), labels, classes=("a", "b", "c"))


def block_network(seed: int = 0) -> nn.Sequential:
    """A network for `blocks` with BatchNorm and dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(72, 3)
        )


def fit_blocks(
    folder: Path, method: Method = standard, recipe: Recipe = RECIPE, model: nn.Module | None = None, **options: Any
) -> tuple[nn.Module, History]:
    """Train on `blocks`; `options` are further fields of the plan or arguments of `fit`."""
    folder.mkdir(exist_ok=True)
    model = model or block_network()
    arguments = {name: options.pop(name) for name in ("progress", "after_round") if name in options}
    plan = TrainingPlan(TrainingSet.of(blocks()), blocks(), method, recipe, **{"seed": 5, **options})
    return model, fit(model, plan, folder, **arguments)


@lru_cache
def digit_parts() -> tuple[Dataset, Dataset, Dataset]:
    """1,200, 200 and 397 of scikit-learn's digits."""
    digits = every_digit()
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    return digits.subset(order[:1200]), digits.subset(order[1200:1400]), digits.subset(order[1400:])


def digit_network(seed: int = 0, width: int = 16) -> nn.Sequential:
    """A network for 8×8 digits with BatchNorm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.Flatten(), nn.Linear(8 * width, 10),
        )  # fmt: skip


def fit_digits(
    folder: Path,
    method: Method,
    threat: Threat | None,
    model: nn.Module | None = None,
    parts: tuple[Dataset, ...] | None = None,
    **options: Any,
) -> tuple[nn.Module, History]:
    """Train on digits in 120 updates of 48 images; `options` are fields of the recipe or the plan, or `progress`."""
    folder.mkdir(exist_ok=True)
    model, parts = model or digit_network(), parts or digit_parts()
    progress, fallback = options.pop("progress", None), options.pop("fallback", None)
    settings = {"updates": 120, "rounds": 3, "batch_size": 48, "lr": 0.01, "val_images": 100, **options}
    recipe = Recipe(**settings)
    plan = TrainingPlan(TrainingSet.of(parts[0]), parts[1], method, recipe, threat=threat, fallback=fallback)
    return model, fit(model, plan, folder, progress=progress)


def same_weights(one: nn.Module, other: nn.Module, tolerance: float = 0.0) -> bool:
    """Whether two networks have equal parameters and buffers, up to `tolerance`."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.allclose(a.float(), b.float(), rtol=0, atol=tolerance) for a, b in pairs)
