"""Attacks one after the other, each on the images that no earlier one has broken."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from inoculate.attacks.base import Attack
from inoculate.attacks.losses import logits_fp32
from inoculate.core.modes import frozen
from inoculate.core.threat import Threat
from inoculate.models.acceleration.fast import original


def attack_survivors(
    attacks: Iterable[Attack], model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator | None
) -> Tensor:
    """The images (B×C×H×W) of the attack that broke each, else of the last; the original of a `fast` copy decides."""
    judge = original(model)
    result, rows = x.clone(), torch.arange(len(x), device=x.device)
    for attack in attacks:
        result[rows] = attack(model, x[rows], y[rows], threat.select(rows), generator=generator)
        with frozen(judge), torch.no_grad():
            rows = rows[logits_fp32(judge, result[rows]).argmax(dim=1) == y[rows]]
        if not len(rows):
            break
    return result
