"""Robust distillation: a small robust teacher's soft labels in place of hard ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from inoculate.attacks.pgd import PGD
from inoculate.training import losses as objectives
from inoculate.training.methods.adversarial import Batch, LossAndLogits, away_from, outputs
from inoculate.training.methods.options import check_method


@dataclass(frozen=True)
class ARD:
    """Adversarially robust distillation (Goldblum et al. 2020): PGD on the student, the teacher's soft labels.

    The first helper is the teacher. `alpha` is the share of distillation, at `temperature`; the rest is clean
    cross-entropy. Its loss has no smoothed form.
    """

    alpha: float = 1.0
    temperature: float = 30.0
    steps: int = 10
    step: float = 0.25

    def __post_init__(self) -> None:
        check_method(alpha=self.alpha, temperature=self.temperature, steps=self.steps, step=self.step)

    @property
    def loss_passes(self) -> int:
        return 2 if self.alpha < 1 else 1

    @property
    def passes(self) -> float:
        return self.steps + 1 / 3 + self.loss_passes

    def examples(self, batch: Batch) -> Tensor:
        return batch.attacked(PGD(self.steps, self.step))

    def loss(self, batch: Batch, x_adv: Tensor) -> LossAndLogits:
        teacher, adversarial = outputs(batch.helpers[0], batch.x), batch.model(x_adv).float()
        clean = batch.model(batch.x).float() if self.alpha < 1 else adversarial  # its term counts nothing then
        return LossAndLogits(
            objectives.ard(clean, adversarial, teacher, batch.y, self.alpha, self.temperature), adversarial
        )


@dataclass(frozen=True)
class RSLAD:
    """Robust soft-label distillation (Zi et al. 2021): the teacher's clean soft labels in the attack and in both terms.

    The first helper is the teacher. The attack drives the student away from the teacher's clean prediction, from small
    noise; `alpha` is the weight of the adversarial term. There is no hard label to smooth.
    """

    alpha: float = 5 / 6
    steps: int = 10
    step: float = 0.25
    loss_passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_method(alpha=self.alpha, steps=self.steps, step=self.step)

    @property
    def passes(self) -> float:
        return self.steps + 2 / 3 + self.loss_passes

    def examples(self, batch: Batch) -> Tensor:
        return away_from(outputs(batch.helpers[0], batch.x), batch, self.steps, self.step)

    def loss(self, batch: Batch, x_adv: Tensor) -> LossAndLogits:
        clean, adversarial = batch.both(x_adv)
        teacher = outputs(batch.helpers[0], batch.x)
        return LossAndLogits(objectives.rslad(clean, adversarial, teacher, self.alpha), adversarial)
