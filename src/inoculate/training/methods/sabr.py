"""Certified training on small boxes."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
class SABR:
    """Cross-entropy of the worst-case logits in a small box around PGD's image (Müller et al. 2023).

    The box has the radius `subselection` · eps, and its centre lies where it fits into the ball: PGD attacks within the
    rest of eps. With `subselection` 1 it is IBP. BatchNorm takes its statistics from the centres.

    Options:
        start: the fraction of the training before eps grows.
        ramp: the fraction over which it grows linearly.
        subselection: radius of the small box relative to eps; the paper's for MNIST are 0.4 (0.1) and 0.6 (0.3), for
            CIFAR10 0.1 (2/255) and 0.7 (8/255).
        steps: number of steps of PGD.
        step: their length, relative to the eps of PGD.
        factor: eps of the training relative to that of the threat, which validation certifies.
    """

    start: float = 0.02
    ramp: float = 0.3
    subselection: float = 0.6
    steps: int = 8
    step: float = 0.25
    factor: float = 1.0
    crafts: ClassVar[bool] = True
    loss_passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        require_fraction(start=self.start, ramp=self.ramp, subselection=self.subselection)
        require_positive(step=self.step, factor=self.factor)
        require_count(steps=self.steps)

    @property
    def passes(self) -> float:
        return self.steps + self.loss_passes

    def begin(self, threat: Threat, helpers: tuple[nn.Module, ...], common: CommonOptions) -> CertifiedMethod:
        return CertifiedMethod(self, threat, common)

    def examples(self, batch: Batch) -> Tensor:
        rest = replace(batch.threat, eps=batch.threat.eps * (1 - self.subselection))
        return replace(batch, threat=rest).craft(PGD(self.steps, self.step)) if rest.eps else batch.x

    def loss(self, batch: Batch, x_adv: Tensor, scale: float) -> LossAndLogits:
        small = replace(batch.threat, eps=batch.threat.eps * self.subselection)
        worst, _ = worst_and_plain_logits(batch, Span.around(x_adv, small))
        return mixed_cross_entropy(batch, worst, None, 0.0)
