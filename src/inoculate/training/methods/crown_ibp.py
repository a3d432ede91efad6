"""Certified training with CROWN-IBP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from inoculate.certification.bounds.span import Span
from inoculate.core.options import require_fraction, require_positive
from inoculate.core.threat import Threat
from inoculate.training.bounds import propagate
from inoculate.training.methods.adversarial import Batch, LossAndLogits
from inoculate.training.methods.certified import CertifiedMethod, mixed_cross_entropy, worst_and_plain_logits
from inoculate.training.methods.options import CommonOptions

CLASSES = 10  # of which `passes` reckons


@dataclass(frozen=True)
class CROWNIBP:
    """IBP whose bounds are, while eps grows, mixed with backward linear ones (Zhang et al. 2020, equation 12).

    The weight of the linear bounds falls from 1 to `beta`, and that of the clean loss from 1 to `kappa`. A network of
    more classes costs more than `passes` says.

    Options:
        start: the fraction of the training before eps grows.
        ramp: the fraction over which it grows linearly.
        kappa: final weight of cross-entropy on clean images.
        beta: final weight of the linear bounds.
        factor: eps of the training relative to that of the threat, which validation certifies.
    """

    start: float = 0.05
    ramp: float = 0.25
    kappa: float = 0.0
    beta: float = 0.0
    factor: float = 1.0
    crafts: ClassVar[bool] = False
    loss_passes: ClassVar[int] = 3

    def __post_init__(self) -> None:
        require_fraction(start=self.start, ramp=self.ramp, kappa=self.kappa, beta=self.beta)
        require_positive(factor=self.factor)

    @property
    def passes(self) -> float:
        linear = 1.0 if self.beta else self.ramp
        return self.loss_passes + linear * CLASSES

    def begin(self, threat: Threat, helpers: tuple[nn.Module, ...], common: CommonOptions) -> CertifiedMethod:
        return CertifiedMethod(self, threat, common)

    def examples(self, batch: Batch) -> Tensor:
        return batch.x

    def loss(self, batch: Batch, x_adv: Tensor, scale: float) -> LossAndLogits:
        span = Span.around(batch.x, batch.threat, batch.x)
        linear, clean = 1 + (self.beta - 1) * scale, 1 + (self.kappa - 1) * scale
        if not linear or not scale:  # with eps 0 both bounds are the logits
            worst, plain = worst_and_plain_logits(batch, span)
            return mixed_cross_entropy(batch, worst, plain, clean)
        found = propagate(batch.model, span)
        low = torch.lerp(found.margins(batch.y), found.margins(batch.y, relax=True), linear)
        return mixed_cross_entropy(batch, -low, found.plain, clean)
