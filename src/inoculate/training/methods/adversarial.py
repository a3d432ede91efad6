"""What adversarial training methods share: the batch, the `Defence` protocol, and the update that it leads to.

Examples are crafted on the network in eval mode, through a folded copy that follows its weights (`FoldedCopies`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.core.threat import Threat
from inoculate.models.acceleration.folding import FoldedCopies
from inoculate.training.awp import worst_weights
from inoculate.training.methods.base import batch_metrics
from inoculate.training.methods.options import CommonOptions


class LossAndLogits(NamedTuple):
    """The loss that a method minimises (a scalar), and the logits on the adversarial images (B×K)."""

    loss: Tensor
    logits: Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of a training: `model`, images `x` (B×C×H×W in [0, 1]), labels `y` (B), and what goes with them.

    helpers: the other networks that a method uses (a teacher, surrogates). smoothing: label smoothing.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    threat: Threat
    generator: torch.Generator
    helpers: tuple[nn.Module, ...] = ()
    smoothing: float = 0.0

    def craft(self, attack: Any, **options: Any) -> Tensor:
        """The images under an attack on the model."""
        x_adv: Tensor = attack(self.model, self.x, self.y, self.threat, generator=self.generator, **options)
        return x_adv

    def clean_and_adversarial_logits(self, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (fp32) on clean and on adversarial images, each batch with its own BatchNorm statistics."""
        return self.model(self.x).float(), self.model(x_adv).float()

    def cross_entropy(self, x_adv: Tensor) -> LossAndLogits:
        """Cross-entropy on the adversarial images alone."""
        logits = self.model(x_adv).float()
        return LossAndLogits(F.cross_entropy(logits, self.y, label_smoothing=self.smoothing), logits)


@runtime_checkable
class Defence(Protocol):
    """The options of a training method, with how it crafts examples and what it minimises on them.

    `examples` and `loss` get a batch with the fields `model`, images `x` (B×C×H×W in [0, 1]), labels `y` (B), `threat`,
    `generator` and `helpers` (the other networks that the method uses). `examples` returns adversarial images
    (B×C×H×W); its model is in eval mode. `loss` returns the loss (a scalar) and the logits on the examples (B×K).

    Fields:
        passes: cost of one update in forward-backward passes over the batch, helpers included; a forward pass alone
            counts a third.
        loss_passes: those of them that the loss on the network takes.
    """

    @property
    def loss_passes(self) -> float: ...

    @property
    def passes(self) -> float: ...

    def examples(self, batch: Batch) -> Tensor: ...

    def loss(self, batch: Batch, x_adv: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, eq=False)
class AdversarialMethod:
    """The update of a `Defence` against `threat`. It is a `Method`."""

    defence: Defence
    threat: Threat
    helpers: tuple[nn.Module, ...] = ()
    common: CommonOptions = field(default_factory=CommonOptions)
    copies: FoldedCopies = field(default_factory=FoldedCopies, init=False, repr=False)

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
        threat = threat_at(self.threat, self.common, progress)
        batch = Batch(model, x, y, threat, generator, self.helpers, self.common.smoothing)
        x_adv = self.defence.examples(replace(batch, model=self.copies.current(model, x)))
        return minimise(model, optimizer, y, lambda: self.defence.loss(batch, x_adv), self.common.awp)


def threat_at(threat: Threat, common: CommonOptions, progress: float) -> Threat:
    """The threat that is trained against at this progress (0 to 1), while eps grows."""
    return replace(threat, eps=threat.eps * common.eps_scale(progress))


def minimise(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    y: Tensor,
    objective: Callable[[], tuple[Tensor, Tensor]],
    awp: float,
) -> dict[str, float]:
    """One optimiser step down the loss of `objective`; with `awp` its gradient is taken at the worst weights nearby."""
    with worst_weights(model, lambda: objective()[0], awp):
        loss, logits = objective()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return batch_metrics(loss, logits, y)
