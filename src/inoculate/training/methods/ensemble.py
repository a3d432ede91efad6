"""Ensemble adversarial training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.pgd import PGD
from inoculate.core.options import require_bool, require_count, require_positive
from inoculate.training.methods.adversarial import Batch, LossAndLogits


@dataclass(frozen=True)
class EnsembleAT:
    """Cross-entropy on clean images and on examples of several networks, half and half (Tramèr et al. 2018).

    Each update draws one source among the surrogates, and the trained network itself if `own`, and crafts anew on it.

    Options:
        own: whether the trained network is a source too.
        steps: 1 for FGSM, more for PGD.
        step: length of PGD's steps, relative to eps.
    """

    own: bool = True
    steps: int = 1
    step: float = 0.25
    loss_passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        require_bool(own=self.own)
        require_count(steps=self.steps)
        require_positive(step=self.step)

    @property
    def passes(self) -> float:
        return self.steps + self.loss_passes

    def examples(self, batch: Batch) -> Tensor:
        sources = (*batch.helpers, batch.model) if self.own else batch.helpers
        source = sources[int(torch.randint(len(sources), (), generator=batch.generator))]
        return replace(batch, model=source).craft(FGSM() if self.steps == 1 else PGD(self.steps, self.step))

    def loss(self, batch: Batch, x_adv: Tensor) -> LossAndLogits:
        clean, adversarial = batch.clean_and_adversarial_logits(x_adv)
        each = [F.cross_entropy(z, batch.y, label_smoothing=batch.smoothing) for z in (clean, adversarial)]
        return LossAndLogits((each[0] + each[1]) / 2, adversarial)
