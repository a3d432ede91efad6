"""PGD adversarial training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from inoculate.attacks.pgd import PGD
from inoculate.core.options import require_count, require_positive
from inoculate.training.methods.adversarial import Batch, LossAndLogits


@dataclass(frozen=True)
class PGDAT:
    """Cross-entropy on the images of PGD from a random start (Madry et al. 2018, section 2.1).

    Options:
        steps: number of steps of the attack.
        step: their length, relative to eps.
    """

    steps: int = 10
    step: float = 0.25
    loss_passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require_count(steps=self.steps)
        require_positive(step=self.step)

    @property
    def passes(self) -> float:
        return self.steps + self.loss_passes

    def examples(self, batch: Batch) -> Tensor:
        return batch.craft(PGD(self.steps, self.step))

    def loss(self, batch: Batch, x_adv: Tensor) -> LossAndLogits:
        return batch.cross_entropy(x_adv)
