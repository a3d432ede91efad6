"""Certified training with interval bound propagation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from inoculate.certification.bounds.span import Span
from inoculate.core.modes import has_batchnorm
from inoculate.core.options import require_fraction, require_positive
from inoculate.core.threat import Threat
from inoculate.training.methods.adversarial import Batch, LossAndLogits
from inoculate.training.methods.certified import (
    CertifiedMethod,
    mixed_cross_entropy,
    worst_and_plain_logits,
)
from inoculate.training.methods.options import CommonOptions


@dataclass(frozen=True)
class IBP:
    """Cross-entropy of the worst-case logits that interval bounds allow (Gowal et al. 2018, equation 11).

    The defaults are the paper's for MNIST: 2,000 of 60,000 steps at eps 0, then 10,000 over which eps grows and the
    weight of the clean loss falls from 1 to `kappa`. BatchNorm takes its statistics from clean images, as in Shi et al.
    (2021).

    Options:
        start: the fraction of the training before eps grows.
        ramp: the fraction over which it grows linearly.
        kappa: final weight of cross-entropy on clean images; 0 certifies most, and is cheapest.
        factor: eps of the training relative to that of the threat, which validation certifies. The paper trains with
            4/3 for 0.3 on MNIST.
    """

    start: float = 1 / 30
    ramp: float = 1 / 6
    kappa: float = 0.5
    factor: float = 1.0
    crafts: ClassVar[bool] = False
    loss_passes: ClassVar[int] = 3

    def __post_init__(self) -> None:
        require_fraction(start=self.start, ramp=self.ramp, kappa=self.kappa)
        require_positive(factor=self.factor)

    @property
    def passes(self) -> float:
        return self.loss_passes

    def begin(self, threat: Threat, helpers: tuple[nn.Module, ...], common: CommonOptions) -> CertifiedMethod:
        return CertifiedMethod(self, threat, common)

    def examples(self, batch: Batch) -> Tensor:
        return batch.x

    def loss(self, batch: Batch, x_adv: Tensor, scale: float) -> LossAndLogits:
        weight = 1 + (self.kappa - 1) * scale
        points = batch.x if weight or has_batchnorm(batch.model) else None
        worst, plain = worst_and_plain_logits(batch, Span.around(batch.x, batch.threat, points))
        return mixed_cross_entropy(batch, worst, plain, weight)
