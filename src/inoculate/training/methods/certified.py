"""What certified training methods share: a schedule of eps, and the update that it leads to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.certification.bounds.span import Span
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.models.acceleration.folding import FoldedCopies
from inoculate.training.bounds import propagate
from inoculate.training.methods.adversarial import Batch, LossAndLogits, minimise
from inoculate.training.methods.options import CommonOptions


class CertifiedDefence(Protocol):
    """The options of a certified training method, with its loss.

    start, ramp: eps is 0 for the fraction `start` of the training, and grows linearly for the fraction `ramp`, to
    `factor` times that of the threat.
    crafts: whether it needs adversarial images.
    """

    @property
    def start(self) -> float: ...

    @property
    def ramp(self) -> float: ...

    @property
    def factor(self) -> float: ...

    @property
    def crafts(self) -> bool: ...

    def examples(self, batch: Batch) -> Tensor: ...

    def loss(self, batch: Batch, x_adv: Tensor, scale: float) -> LossAndLogits: ...


@dataclass(frozen=True, eq=False)
class CertifiedMethod:
    """The update of a `CertifiedDefence` against an L∞ `threat`. It is a `Method` and reports certified accuracy."""

    defence: CertifiedDefence
    threat: Threat
    common: CommonOptions = field(default_factory=CommonOptions)
    copies: FoldedCopies = field(default_factory=FoldedCopies, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.threat.norm != "linf":
            raise InputError(f"interval bounds are for linf, not {self.threat.norm}: train against linf")

    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator,
        progress: float = 1.0,
        samples: Tensor | None = None,
    ) -> dict[str, float]:
        scale = eps_at(progress, self.defence.start, self.defence.ramp)
        threat = replace(self.threat, eps=self.threat.eps * self.defence.factor * scale)
        batch = Batch(model, x, y, threat, generator, smoothing=self.common.smoothing)
        x_adv = x
        if self.defence.crafts and scale:
            x_adv = self.defence.examples(replace(batch, model=self.copies.current(model, x)))
        return minimise(model, optimizer, y, lambda: self.defence.loss(batch, x_adv, scale), self.common.awp)


def eps_at(progress: float, start: float, ramp: float) -> float:
    """The fraction of eps that is trained against at this progress; all in [0, 1]."""
    if progress < start:
        return 0.0
    return min(1.0, (progress - start) / ramp) if ramp else 1.0


def worst_and_plain_logits(batch: Batch, span: Span) -> tuple[Tensor, Tensor | None]:
    """Worst-case logits over the span (B×K, relative to the true one's), and those of its points if it has any."""
    found = propagate(batch.model, span)
    return -found.margins(batch.y), found.plain


def mixed_cross_entropy(batch: Batch, worst: Tensor, plain: Tensor | None, weight: float) -> LossAndLogits:
    """`weight` · cross-entropy of the plain logits + (1 − `weight`) · that of the worst-case ones."""
    loss = F.cross_entropy(worst.float(), batch.y, label_smoothing=batch.smoothing)
    if weight and plain is not None:
        loss = torch.lerp(loss, F.cross_entropy(plain.float(), batch.y, label_smoothing=batch.smoothing), weight)
    return LossAndLogits(loss, worst)
