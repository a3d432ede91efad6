"""Training on images with Gaussian noise, for randomized smoothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from inoculate.core.options import require_positive
from inoculate.core.rng import Draws
from inoculate.training.methods.adversarial import Batch, LossAndLogits


@dataclass(frozen=True)
class Gaussian:
    """Cross-entropy on images with Gaussian noise, which is not clipped (Cohen et al. 2019, after Lecuyer et al. 2019).

    It makes the base classifier of randomized smoothing with the same `sigma`. The threat decides only what validation
    attacks.

    Options:
        sigma: standard deviation of the noise, in pixel units of [0, 1].
    """

    sigma: float = 0.25
    loss_passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require_positive(sigma=self.sigma)

    @property
    def passes(self) -> float:
        return self.loss_passes

    def examples(self, batch: Batch) -> Tensor:
        noise = Draws(batch.x, batch.generator).normal(*batch.x.shape[1:]).to(batch.x)
        return batch.x + self.sigma * noise

    def loss(self, batch: Batch, x_adv: Tensor) -> LossAndLogits:
        return batch.cross_entropy(x_adv)
