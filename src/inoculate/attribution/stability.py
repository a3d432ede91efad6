"""Attribution stability: how much an attack changes the attribution of an image, beside random noise of equal size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inoculate.attacks.one_step import take_step
from inoculate.attribution.crafting import Crafting
from inoculate.attribution.maps import integrated_gradients
from inoculate.core.rng import Draws
from inoculate.core.stats import rounded, spearman
from inoculate.core.threat import steepest_direction

MEASURE = "1 − Spearman's rank correlation of |integrated gradients| per pixel, clean against adversarial"


def attribution_change(one: Tensor, other: Tensor) -> list[float | None]:
    """1 − Spearman's rank correlation of the absolute values of two maps (B×H×W), per image.

    0 means the same ranking of pixels, 1 an unrelated one; None where all pixels are equal.
    """
    maps = [each.abs().flatten(1).cpu().numpy() for each in (one, other)]
    return [rounded(1 - value) for value in spearman(*maps).tolist()]


def stability(crafting: Crafting, rows: Tensor, steps: int, batch_size: int) -> dict[str, Any]:
    """The attribution change of these images under the attack and under noise, as lists, and which were misclassified.

    No pass holds more than `batch_size` images or points of a path.
    """
    found: dict[str, Any] = {"measure": MEASURE, "attack": [], "noise": [], "misclassified": []}
    model = crafting.classifier.model
    for some in torch.split(rows, batch_size) if len(rows) else ():
        x, y = crafting.classifier.load(crafting.data, some)
        x_adv, draw = crafting.craft(model, x, y, some)
        direction = steepest_direction(Draws(x, draw).normal(*x.shape[1:]), crafting.threat.norm)
        noisy = take_step(x, direction, crafting.threat.select(some))
        clean = integrated_gradients(model, x, y, steps, batch_size)
        found["attack"] += attribution_change(clean, integrated_gradients(model, x_adv, y, steps, batch_size))
        found["noise"] += attribution_change(clean, integrated_gradients(model, noisy, y, steps, batch_size))
        with torch.no_grad():
            found["misclassified"] += (model(x_adv).argmax(dim=1) != y).tolist()
    return found
