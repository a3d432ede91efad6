"""Adversarially robust distillation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from inoculate.attacks.pgd import PGD
from inoculate.core.errors import InputError
from inoculate.core.options import require_count, require_fraction, require_nonnegative, require_positive
from inoculate.training import losses
from inoculate.training.methods.adversarial import Batch, LossAndLogits
from inoculate.training.methods.divergence import eval_logits
from inoculate.training.methods.n_fgsm import step_from_noise


@dataclass(frozen=True)
class ARD:
    """PGD on the student, a robust teacher's soft labels as targets (Goldblum et al. 2020).

    The first helper is the teacher. The loss has no smoothed form.

    Options:
        alpha: weight of the distillation; the rest is cross-entropy on the clean images.
        temperature: of the distillation.
        steps: number of steps of the attack.
        step: their length, relative to eps.
        noise: the one step starts from uniform noise of this size, relative to eps, and is not projected (N-FGSM);
            0 for PGD.
    """

    alpha: float = 1.0
    temperature: float = 30.0
    steps: int = 10
    step: float = 0.25
    noise: float = 0.0

    def __post_init__(self) -> None:
        require_fraction(alpha=self.alpha)
        require_positive(temperature=self.temperature, step=self.step)
        require_count(steps=self.steps)
        require_nonnegative(noise=self.noise)
        if self.noise and self.steps != 1:
            raise InputError(f"noise is for one step, and steps is {self.steps}: give steps=1, or noise=0")

    @property
    def loss_passes(self) -> int:
        return 2 if self.alpha < 1 else 1

    @property
    def passes(self) -> float:
        return self.steps + 1 / 3 + self.loss_passes

    def examples(self, batch: Batch) -> Tensor:
        if self.noise:
            return step_from_noise(batch, self.noise, self.step)
        return batch.craft(PGD(self.steps, self.step))

    def loss(self, batch: Batch, x_adv: Tensor) -> LossAndLogits:
        teacher, adversarial = eval_logits(batch.helpers[0], batch.x), batch.model(x_adv).float()
        clean = batch.model(batch.x).float() if self.alpha < 1 else adversarial  # with weight 0
        loss = losses.ard(clean, adversarial, teacher, batch.y, self.alpha, self.temperature)
        return LossAndLogits(loss, adversarial)
