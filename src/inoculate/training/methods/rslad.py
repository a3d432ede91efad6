"""Robust soft-label adversarial distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from inoculate.core.options import require_count, require_fraction, require_positive
from inoculate.training import losses
from inoculate.training.methods.adversarial import Batch, LossAndLogits
from inoculate.training.methods.divergence import eval_logits, maximise_divergence


@dataclass(frozen=True)
class RSLAD:
    """A robust teacher's soft labels in the attack and in both terms of the loss (Zi et al. 2021).

    The first helper is the teacher. The attack moves the student's prediction away from the teacher's clean one, from
    small noise. There is no hard label to smooth.

    Options:
        alpha: weight of the adversarial term; the rest is that of the clean one.
        steps: number of steps of the attack.
        step: their length, relative to eps.
    """

    alpha: float = 5 / 6
    steps: int = 10
    step: float = 0.25
    loss_passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        require_fraction(alpha=self.alpha)
        require_count(steps=self.steps)
        require_positive(step=self.step)

    @property
    def passes(self) -> float:
        return self.steps + 2 / 3 + self.loss_passes

    def examples(self, batch: Batch) -> Tensor:
        return maximise_divergence(eval_logits(batch.helpers[0], batch.x), batch, self.steps, self.step)

    def loss(self, batch: Batch, x_adv: Tensor) -> LossAndLogits:
        clean, adversarial = batch.clean_and_adversarial_logits(x_adv)
        teacher = eval_logits(batch.helpers[0], batch.x)
        return LossAndLogits(losses.rslad(clean, adversarial, teacher, self.alpha), adversarial)
