"""Attacks one after the other, each on the images that no earlier one has broken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from inoculate.attacks.base import Attack
from inoculate.attacks.losses import logits_fp32
from inoculate.attacks.success import is_adversarial
from inoculate.core.modes import frozen
from inoculate.core.threat import Threat
from inoculate.models.acceleration.fast import original


def attack_survivors(
    attacks: Iterable[Attack],
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    generator: torch.Generator | None,
    target: Tensor | None = None,
) -> Tensor:
    """The images (B×C×H×W) of the attack that broke each, else of the last; the original of a `fast` copy decides.

    target: the class (B) that each image is driven to, by all attacks; only that counts then.
    """
    judge = original(model)
    result, rows = x.clone(), torch.arange(len(x), device=x.device)
    for attack in attacks:
        sought = None if target is None else target[rows]
        aimed = attack if sought is None else replace(attack, target=sought)  # type: ignore[type-var]
        result[rows] = aimed(model, x[rows], y[rows], threat.select(rows), generator=generator)
        with frozen(judge), torch.no_grad():
            rows = rows[~is_adversarial(logits_fp32(judge, result[rows]), y[rows], sought)]
        if not len(rows):
            break
    return result
