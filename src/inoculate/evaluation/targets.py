"""The class that a targeted attack drives each image to: chosen once, so that records and all members agree on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from inoculate.attacks._minimum_norm import Extended
from inoculate.attacks.base import Attack, Ensemble, Targeted
from inoculate.attacks.targets import choose_targets
from inoculate.core.errors import InputError
from inoculate.core.rng import generator
from inoculate.data.dataset import Dataset
from inoculate.models.classifier import Classifier


def target_name(attack: Attack) -> str | None:
    """The target of an attack as rows show it: a rule or the number of a class; None without one."""
    target = _target_of(attack)
    return None if target is None else str(target)


def target_classes(
    classifier: Classifier, data: Dataset, attack: Attack | Ensemble, batches: Sequence[Tensor], seed: int
) -> Tensor | None:
    """The target class (N) of the images in `batches` of rows, −1 of the others; None for an attack without a target.

    Raises `InputError` for targets that are given image by image.
    """
    target = _target_of(attack)
    if target is None:
        return None
    if isinstance(target, Tensor):
        raise InputError("a target for each image is for calls of the attack itself: give a class, or a rule")
    found = torch.full((len(data),), -1)
    with classifier.ready():
        for rows in batches:
            x, y = classifier.load(data, rows)
            draw = generator(seed, "target", device=x.device)
            found[rows] = choose_targets(classifier.logits(x, y), x, y, target, draw).cpu()
    return found


def towards(attack: Attack, classes: Tensor) -> Attack:
    """The same attack with one target class per image (B)."""
    if isinstance(attack, Extended):
        return replace(attack, attack=towards(attack.attack, classes))  # type: ignore[arg-type]
    changed: Attack = replace(attack, target=classes)  # type: ignore[type-var]
    return changed


def _target_of(attack: Attack | Ensemble) -> Any:
    """The target of one of the package's attacks, or one that is declared like them; None for any other."""
    return attack.target if isinstance(attack, Targeted) and is_dataclass(attack) else None
