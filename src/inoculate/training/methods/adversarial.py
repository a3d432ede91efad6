"""Adversarial training: the examples that each method crafts, and what it then minimises.

Examples are crafted on the network in eval mode, through a folded copy that follows its weights (`FoldedCopies`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.attacks.ascent import Steps, ascend
from inoculate.attacks.base import carry_out
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.losses import Loss, Objective, targeted_cross_entropy
from inoculate.attacks.pgd import PGD
from inoculate.core.modes import frozen
from inoculate.core.rng import Draws
from inoculate.core.threat import Threat, project
from inoculate.models.acceleration.folding import FoldedCopies
from inoculate.training import losses as objectives
from inoculate.training.awp import worst_weights
from inoculate.training.methods.base import report
from inoculate.training.methods.options import CommonOptions, check_method

NOISE = 1e-3  # standard deviation of the start of TRADES and what grew out of it


class LossAndLogits(NamedTuple):
    """What a method minimises (a scalar), and the logits on the adversarial images (B×K)."""

    loss: Tensor
    logits: Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """What a method works on: `model`, images `x` (B×C×H×W in [0, 1]), labels `y` (B), and whose help it has."""

    model: nn.Module
    x: Tensor
    y: Tensor
    threat: Threat
    generator: torch.Generator
    helpers: tuple[nn.Module, ...] = ()
    smoothing: float = 0.0

    def attacked(self, attack: Any, **options: Any) -> Tensor:
        """The images under an attack on the model."""
        x_adv: Tensor = attack(self.model, self.x, self.y, self.threat, generator=self.generator, **options)
        return x_adv

    def both(self, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (fp32) on clean and on adversarial images, each batch with its own BatchNorm statistics."""
        return self.model(self.x).float(), self.model(x_adv).float()

    def cross_entropy(self, x_adv: Tensor) -> LossAndLogits:
        """On the adversarial images alone."""
        logits = self.model(x_adv).float()
        return LossAndLogits(F.cross_entropy(logits, self.y, label_smoothing=self.smoothing), logits)


class Defence(Protocol):
    """The options of a method: how it crafts and what it minimises.

    `passes` is the cost of an update in forward-backward passes over its batch, a forward pass alone counting a third;
    the helpers' passes are included. `loss_passes` are those of them that the loss on the network takes.
    """

    @property
    def loss_passes(self) -> float: ...

    @property
    def passes(self) -> float: ...

    def examples(self, batch: Batch) -> Tensor: ...

    def loss(self, batch: Batch, x_adv: Tensor) -> LossAndLogits: ...


@dataclass(frozen=True)
class PGDAT:
    """Cross-entropy on the images of a PGD attack from a random start (Madry et al. 2018, section 2.1)."""

    steps: int = 10
    step: float = 0.25
    loss_passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_method(steps=self.steps, step=self.step)

    @property
    def passes(self) -> float:
        return self.steps + self.loss_passes

    def examples(self, batch: Batch) -> Tensor:
        return batch.attacked(PGD(self.steps, self.step))

    def loss(self, batch: Batch, x_adv: Tensor) -> LossAndLogits:
        return batch.cross_entropy(x_adv)


@dataclass(frozen=True)
class FGSMRS:
    """Cross-entropy on the images of one step from a random start (Wong et al. 2020, algorithm 3).

    `step` is relative to eps; `random_start=False` with step 1 is plain FGSM training (Goodfellow et al. 2015), which
    is known to collapse.
    """

    step: float = 1.25
    random_start: bool = True
    loss_passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_method(step=self.step, random_start=self.random_start)

    @property
    def passes(self) -> float:
        return 1 + self.loss_passes

    def examples(self, batch: Batch) -> Tensor:
        return batch.attacked(PGD(1, self.step), start=None if self.random_start else batch.x)

    def loss(self, batch: Batch, x_adv: Tensor) -> LossAndLogits:
        return batch.cross_entropy(x_adv)


@dataclass(frozen=True)
class TRADES:
    """Clean cross-entropy, and `beta` times how far the attack moves the prediction (Zhang et al. 2019, algorithm 1).

    The attack raises the divergence from the clean prediction, and starts from small noise.
    """

    beta: float = 6.0
    steps: int = 10
    step: float = 0.25
    loss_passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_method(beta=self.beta, steps=self.steps, step=self.step)

    @property
    def passes(self) -> float:
        return self.steps + 1 / 3 + self.loss_passes

    def examples(self, batch: Batch) -> Tensor:
        return away_from(outputs(batch.model, batch.x), batch, self.steps, self.step)

    def loss(self, batch: Batch, x_adv: Tensor) -> LossAndLogits:
        clean, adversarial = batch.both(x_adv)
        return LossAndLogits(objectives.trades(clean, adversarial, batch.y, self.beta, batch.smoothing), adversarial)


@dataclass(frozen=True)
class MART:
    """Boosted cross-entropy on PGD images, and a divergence weighted by how hard the clean image is (Wang et al. 2020).

    The attack starts from small noise. Its loss has no smoothed form.
    """

    beta: float = 5.0
    steps: int = 10
    step: float = 0.25
    loss_passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_method(beta=self.beta, steps=self.steps, step=self.step)

    @property
    def passes(self) -> float:
        return self.steps + self.loss_passes

    def examples(self, batch: Batch) -> Tensor:
        return batch.attacked(PGD(self.steps, self.step), start=near(batch))

    def loss(self, batch: Batch, x_adv: Tensor) -> LossAndLogits:
        clean, adversarial = batch.both(x_adv)
        return LossAndLogits(objectives.mart(clean, adversarial, batch.y, self.beta), adversarial)


@dataclass(frozen=True)
class Ensemble:
    """Ensemble adversarial training (Tramèr et al. 2018): clean and adversarial images, half and half.

    Each update draws one source among the frozen `helpers`, and the trained network itself if `own`, and crafts anew
    on it: FGSM, or PGD where `steps` is above 1. Without `own` it is the paper's `transferred` with fresh examples.
    """

    own: bool = True
    steps: int = 1
    step: float = 0.25
    loss_passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_method(own=self.own, steps=self.steps, step=self.step)

    @property
    def passes(self) -> float:
        return self.steps + self.loss_passes

    def examples(self, batch: Batch) -> Tensor:
        sources = (*batch.helpers, batch.model) if self.own else batch.helpers
        source = sources[int(torch.randint(len(sources), (), generator=batch.generator))]
        return replace(batch, model=source).attacked(FGSM() if self.steps == 1 else PGD(self.steps, self.step))

    def loss(self, batch: Batch, x_adv: Tensor) -> LossAndLogits:
        clean, adversarial = batch.both(x_adv)
        each = [F.cross_entropy(z, batch.y, label_smoothing=batch.smoothing) for z in (clean, adversarial)]
        return LossAndLogits((each[0] + each[1]) / 2, adversarial)


@dataclass(frozen=True, eq=False)
class AdversarialMethod:
    """The update of a `Defence` against `threat`, with what may be added to any of them. It is a `Method`."""

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
        share: float = 1.0,
    ) -> dict[str, float]:
        threat = replace(self.threat, eps=self.threat.eps * self.common.strength(share))
        batch = Batch(model, x, y, threat, generator, self.helpers, self.common.smoothing)
        x_adv = self.defence.examples(replace(batch, model=self.copies.current(model, x)))
        return minimise(model, optimizer, y, lambda: self.defence.loss(batch, x_adv), self.common.awp)


def minimise(
    model: nn.Module, optimizer: torch.optim.Optimizer, y: Tensor, objective: Callable[[], LossAndLogits], awp: float
) -> dict[str, float]:
    """One optimiser step down `objective`, its gradient taken at the worst weights nearby if `awp` is above 0."""
    with worst_weights(model, lambda: objective().loss, awp):
        loss, logits = objective()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return report(loss, logits, y)


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    """Logits (B×K, fp32) in eval mode, without a gradient; a copy: a compiled network may reuse its outputs' memory."""
    with frozen(model), torch.no_grad():
        logits: Tensor = model(x)
    return logits.to(torch.float32, copy=True)


def near(batch: Batch) -> Tensor:
    """The images with a little Gaussian noise, inside the ball."""
    noise = Draws(batch.x, batch.generator).normal(*batch.x.shape[1:]).to(batch.x)
    return project(batch.x + NOISE * noise, batch.x, batch.threat)


def away_from(reference: Tensor, batch: Batch, steps: int, step: float) -> Tensor:
    """Images whose prediction diverges most from `reference` (logits, B×K), by PGD from small noise."""
    start = near(batch)

    def craft(x: Tensor, y: Tensor) -> Tensor:
        loss = Loss(lambda logits, _: objectives.divergence(logits, reference), targeted_cross_entropy)
        return ascend(batch.model, x, Objective(loss, y), batch.threat, start, Steps(steps, step))

    return carry_out(batch.model, batch.x, batch.y, batch.threat, craft)
