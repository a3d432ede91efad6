"""Accuracy of a network on validation images while it is being trained, clean and under attack."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.attacks.short_ensemble import ShortEnsemble
from inoculate.certification.bounds.tracing import trace
from inoculate.certification.certifiers import QUICK
from inoculate.core.modes import device_of, frozen
from inoculate.core.pixels import to_float
from inoculate.core.rng import generator
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.models.classifier import prepare

BATCH_SIZE = 256
ATTACK = ShortEnsemble()


def passes(images: int, attacked: int) -> float:
    """The cost of `validate_round` in forward-backward passes of an image: `images` clean, `attacked` under attack."""
    attacked = min(images, attacked)
    return ATTACK.passes * attacked + (images + attacked) / 3


def validate_round(
    model: nn.Module, data: Dataset, threat: Threat | None, images: int, certify: bool = False
) -> dict[str, float]:
    """What the history holds of a round: val_loss, val_accuracy and val_majority (that of the majority-class baseline).

    Under a threat also val_robust, the accuracy under `ShortEnsemble` on val_n `images`; with `certify` in its place
    val_certified, the accuracy that interval bounds prove on all val_n images.
    """
    loss, accuracy = clean_accuracy(model, data)
    found = {"val_loss": loss, "val_accuracy": accuracy, "val_majority": majority_baseline(data)}
    if threat is not None and certify:
        found |= {"val_certified": certified_accuracy(model, data, threat), "val_n": len(data)}
    elif threat is not None:
        found |= {"val_robust": robust_accuracy(model, data, threat, images), "val_n": min(images, len(data))}
    return found


def majority_baseline(data: Dataset) -> float:
    """The accuracy of always predicting the most frequent class."""
    return int(data.labels.bincount().max()) / len(data)


def clean_accuracy(model: nn.Module, data: Dataset) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of `model`."""
    loss = correct = 0.0
    device = device_of(model)
    with frozen(model), torch.no_grad():
        for start in range(0, len(data), BATCH_SIZE):
            batch = slice(start, start + BATCH_SIZE)
            y = data.labels[batch].to(device)
            logits = model(to_float(data.images[batch].to(device)))
            loss += F.cross_entropy(logits, y, reduction="sum").item()
            correct += (logits.argmax(dim=1) == y).sum().item()
    return loss / len(data), correct / len(data)


def certified_accuracy(model: nn.Module, data: Dataset, threat: Threat) -> float:
    """Accuracy of `model` that interval bounds in float32 prove. Raises `InputError` for a layer without bounds."""
    correct, device = 0, device_of(model)
    graph = trace(model, (data.channels, *data.image_size))
    with frozen(model), torch.no_grad():
        for start in range(0, len(data), BATCH_SIZE):
            batch = slice(start, start + BATCH_SIZE)
            x, y = to_float(data.images[batch].to(device)), data.labels[batch].to(device)
            correct += int((QUICK.margins(graph, x, y, threat) > 0).sum())
    return correct / len(data)


@torch.inference_mode(False)
def robust_accuracy(model: nn.Module, data: Dataset, threat: Threat, images: int) -> float:
    """Accuracy under `ShortEnsemble` on `images` of `data`, always the same ones; a clean error is an error.

    A random model is judged by the mean of several passes after each part of the attack.
    """
    part = data.limit(min(images, len(data)), seed=0)
    classifier = prepare(model, part, precision="exact")
    right = torch.zeros(len(part), dtype=torch.bool)
    with classifier.ready():
        for rows in _batches(torch.arange(len(part))):
            right[rows] = classifier.predict(*classifier.load(part, rows)).right
        for rows in _batches(right.nonzero().squeeze(1)):
            draw = generator(0, "attack", device=classifier.device)
            for attack in ATTACK.parts(threat, early_stop=not classifier.is_random):
                rows = rows[right[rows]]
                if len(rows):
                    x, y = classifier.load(part, rows)
                    right[rows] = classifier.predict(attack(classifier.model, x, y, threat, generator=draw), y).right
    return right.float().mean().item()


def _batches(rows: Tensor) -> Iterator[Tensor]:
    return (rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE))
