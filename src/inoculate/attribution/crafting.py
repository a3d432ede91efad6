"""The adversarial images that are explained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inoculate.attacks.base import Attack
from inoculate.core.rng import generator
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.models.classifier import Classifier


@dataclass(frozen=True, eq=False)
class Crafting:
    """A classifier, the images that it is explained on, and the attack on them."""

    classifier: Classifier
    data: Dataset
    attack: Attack
    threat: Threat
    seed: int

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, torch.Generator]:
        """Adversarial versions of `x`, the images `rows` of the data, for `model`, and the generator after them."""
        draw = generator(self.seed, "explain", device=x.device)
        return self.attack(model, x, y, self.threat.select(rows), generator=draw), draw
