"""One-step adversarial training from a random start ("Fast AT")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from inoculate.attacks.pgd import PGD
from inoculate.core.options import require_bool, require_positive
from inoculate.training.methods.adversarial import Batch, LossAndLogits


@dataclass(frozen=True)
class FGSMRS:
    """Cross-entropy on the images of one step from a random start (Wong et al. 2020, algorithm 3).

    Options:
        step: length of the step, relative to eps.
        random_start: with False and `step` 1 this is plain FGSM training (Goodfellow et al. 2015), which is known to
            overfit catastrophically.
    """

    step: float = 1.25
    random_start: bool = True
    loss_passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require_positive(step=self.step)
        require_bool(random_start=self.random_start)

    @property
    def passes(self) -> float:
        return 1 + self.loss_passes

    def examples(self, batch: Batch) -> Tensor:
        return batch.craft(PGD(1, self.step), start=None if self.random_start else batch.x)

    def loss(self, batch: Batch, x_adv: Tensor) -> LossAndLogits:
        return batch.cross_entropy(x_adv)
