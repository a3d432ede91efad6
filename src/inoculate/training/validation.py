"""How good a network is on held images while it is being trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from inoculate.attacks.pgd import PGD
from inoculate.core.modes import device_of, frozen
from inoculate.core.pixels import to_float
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import measure_attack, measure_clean
from inoculate.models.classifier import prepare


def passes(images: int, attacked: int) -> float:
    """What `measured` costs in forward-backward passes of an image: PGD-10 on `attacked`, a look at all and them."""
    attacked = min(images, attacked)
    return 10 * attacked + (images + attacked) / 3


def measured(model: nn.Module, split: Dataset, threat: Threat | None, images: int) -> dict[str, float]:
    """What a history says of a round: val_loss, val_accuracy and what one answer for all would be right on
    (val_majority); under a threat also val_robust on val_n `images`."""
    loss, accuracy = validate(model, split)
    found = {"val_loss": loss, "val_accuracy": accuracy, "val_majority": majority(split)}
    if threat is not None:
        found |= {"val_robust": validate_robust(model, split, threat, images), "val_n": min(images, len(split))}
    return found


def majority(split: Dataset) -> float:
    """What one answer for all images would be right on."""
    return int(split.labels.bincount().max()) / len(split)


def validate(model: nn.Module, split: Dataset, batch_size: int = 256) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of `model` on a split."""
    loss = correct = 0.0
    device = device_of(model)
    with frozen(model), torch.no_grad():
        for start in range(0, len(split), batch_size):
            y = split.labels[start : start + batch_size].to(device)
            logits = model(to_float(split.images[start : start + batch_size].to(device)))
            loss += F.cross_entropy(logits, y, reduction="sum").item()
            correct += (logits.argmax(dim=1) == y).sum().item()
    return loss / len(split), correct / len(split)


def validate_robust(model: nn.Module, split: Dataset, threat: Threat, images: int) -> float:
    """Accuracy of `model` under PGD-10 on `images` of a split, always the same ones; wrong when clean is wrong."""
    part = split.limit(min(images, len(split)), seed=0)
    classifier = prepare(model, part, precision="exact")
    clean = measure_clean(classifier, part).right
    (result,) = measure_attack(classifier, part, PGD(steps=10), [threat], clean)
    return result.right.float().mean().item()
