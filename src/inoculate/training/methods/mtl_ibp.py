"""Certified training with a mixture of the adversarial and the interval-bound loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from inoculate.attacks.pgd import PGD
from inoculate.certification.bounds.span import Span
from inoculate.core.options import require_count, require_fraction, require_positive
from inoculate.core.threat import Threat
from inoculate.training.methods.adversarial import Batch, LossAndLogits
from inoculate.training.methods.certified import CertifiedMethod, mixed_cross_entropy, worst_and_plain_logits
from inoculate.training.methods.options import CommonOptions


@dataclass(frozen=True)
class MTLIBP:
    """(1 − `alpha`) · cross-entropy on PGD's images + `alpha` · that of IBP's worst-case logits (De Palma et al. 2024).

    MTL-IBP of "Expressive losses for verified robustness via convex combinations", equation 8. BatchNorm takes its
    statistics from the adversarial images.

    Options:
        start: the fraction of the training before eps grows.
        ramp: the fraction over which it grows linearly.
        alpha: weight of the worst-case loss; small for small eps (0.01 for 2/255 on CIFAR10), large for large ones.
        steps: number of steps of PGD.
        step: their length, relative to eps.
        factor: eps of the training relative to that of the threat, which validation certifies.
    """

    start: float = 0.02
    ramp: float = 0.3
    alpha: float = 0.5
    steps: int = 1
    step: float = 1.25
    factor: float = 1.0
    crafts: ClassVar[bool] = True
    loss_passes: ClassVar[int] = 3

    def __post_init__(self) -> None:
        require_fraction(start=self.start, ramp=self.ramp, alpha=self.alpha)
        require_count(steps=self.steps)
        require_positive(step=self.step, factor=self.factor)

    @property
    def passes(self) -> float:
        return self.steps + self.loss_passes

    def begin(self, threat: Threat, helpers: tuple[nn.Module, ...], common: CommonOptions) -> CertifiedMethod:
        return CertifiedMethod(self, threat, common)

    def examples(self, batch: Batch) -> Tensor:
        return batch.craft(PGD(self.steps, self.step))

    def loss(self, batch: Batch, x_adv: Tensor, scale: float) -> LossAndLogits:
        worst, adversarial = worst_and_plain_logits(batch, Span.around(batch.x, batch.threat, x_adv))
        return mixed_cross_entropy(batch, worst, adversarial, 1 - self.alpha)
