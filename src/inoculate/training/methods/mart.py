"""MART."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from inoculate.attacks.pgd import PGD
from inoculate.core.options import require_count, require_positive
from inoculate.training import losses
from inoculate.training.methods.adversarial import Batch, LossAndLogits
from inoculate.training.methods.divergence import noisy_start


@dataclass(frozen=True)
class MART:
    """Boosted cross-entropy on PGD images plus `beta` times a KL term weighted by 1 − p_y (Wang et al. 2020).

    p_y is the clean probability of the true class. PGD starts from small noise. The loss has no smoothed form.

    Options:
        beta: weight of the KL term.
        steps: number of steps of the attack.
        step: their length, relative to eps.
    """

    beta: float = 5.0
    steps: int = 10
    step: float = 0.25
    loss_passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        require_positive(beta=self.beta, step=self.step)
        require_count(steps=self.steps)

    @property
    def passes(self) -> float:
        return self.steps + self.loss_passes

    def examples(self, batch: Batch) -> Tensor:
        return batch.craft(PGD(self.steps, self.step), start=noisy_start(batch))

    def loss(self, batch: Batch, x_adv: Tensor) -> LossAndLogits:
        clean, adversarial = batch.clean_and_adversarial_logits(x_adv)
        return LossAndLogits(losses.mart(clean, adversarial, batch.y, self.beta), adversarial)
