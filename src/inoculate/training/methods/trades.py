"""TRADES."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from inoculate.core.options import require_count, require_positive
from inoculate.training import losses
from inoculate.training.methods.adversarial import Batch, LossAndLogits
from inoculate.training.methods.divergence import eval_logits, maximise_divergence


@dataclass(frozen=True)
class TRADES:
    """Clean cross-entropy plus `beta` · KL(clean ‖ adversarial prediction) (Zhang et al. 2019, algorithm 1).

    The attack ascends that divergence from small noise.

    Options:
        beta: weight of the divergence.
        steps: number of steps of the attack.
        step: their length, relative to eps.
    """

    beta: float = 6.0
    steps: int = 10
    step: float = 0.25
    loss_passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        require_positive(beta=self.beta, step=self.step)
        require_count(steps=self.steps)

    @property
    def passes(self) -> float:
        return self.steps + 1 / 3 + self.loss_passes

    def examples(self, batch: Batch) -> Tensor:
        return maximise_divergence(eval_logits(batch.model, batch.x), batch, self.steps, self.step)

    def loss(self, batch: Batch, x_adv: Tensor) -> LossAndLogits:
        clean, adversarial = batch.clean_and_adversarial_logits(x_adv)
        return LossAndLogits(losses.trades(clean, adversarial, batch.y, self.beta, batch.smoothing), adversarial)
