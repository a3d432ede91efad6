"""Examples from a small surrogate that is trained alongside, continued on the trained network itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inoculate.attacks.pgd import PGD
from inoculate.core.options import require_count, require_positive
from inoculate.core.threat import Threat
from inoculate.models.acceleration.folding import FoldedCopies
from inoculate.training.methods.adversarial import Batch, minimise, threat_at
from inoculate.training.methods.companion import follow, optimizer_like
from inoculate.training.methods.options import CommonOptions


@dataclass(frozen=True)
class LiveSurrogate:
    """PGD of `steps` on a surrogate that is trained on the same examples, then `own_steps` on the network itself.

    The first helper is the surrogate; its training starts from its present weights.

    Options:
        steps: number of steps on the surrogate.
        step: their length, relative to eps.
        own_steps: number of steps on the network; with 0 it sees the surrogate's examples as they are.
        own_step: their length, relative to eps.
    """

    steps: int = 7
    step: float = 0.25
    own_steps: int = 1
    own_step: float = 0.5
    loss_passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require_count(steps=self.steps)
        if self.own_steps:
            require_count(own_steps=self.own_steps)
        require_positive(step=self.step, own_step=self.own_step)

    @property
    def passes(self) -> float:
        return self.steps + 1 + self.own_steps + self.loss_passes

    def begin(self, threat: Threat, helpers: tuple[nn.Module, ...], common: CommonOptions) -> LiveSurrogateMethod:
        return LiveSurrogateMethod(self, threat, helpers[0], common)


class LiveSurrogateMethod:
    """The update of `LiveSurrogate`: one optimiser step of the surrogate, one of the network.

    It is a `Method`, and `Stateful`: the surrogate and its optimiser.
    """

    def __init__(self, options: LiveSurrogate, threat: Threat, surrogate: nn.Module, common: CommonOptions) -> None:
        self.options, self.threat, self.surrogate, self.common = options, threat, surrogate, common
        self.copies = FoldedCopies()
        self.optimizer: torch.optim.Optimizer | None = None
        self._loaded: dict[str, Any] | None = None

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
        options, threat = self.options, threat_at(self.threat, self.common, progress)
        surrogate_optimizer = self._optimizer_like(optimizer)
        attack = PGD(options.steps, options.step)
        x_adv = attack(self.copies.current(self.surrogate, x), x, y, threat, generator=generator)
        self.surrogate.train()
        batch = Batch(model, x, y, threat, generator, smoothing=self.common.smoothing)
        on_surrogate = replace(batch, model=self.surrogate)
        minimise(self.surrogate, surrogate_optimizer, y, lambda: on_surrogate.cross_entropy(x_adv), 0.0)
        if options.own_steps:
            attack = PGD(options.own_steps, options.own_step)
            x_adv = attack(self.copies.current(model, x), x, y, threat, generator=generator, start=x_adv)
        return minimise(model, optimizer, y, lambda: batch.cross_entropy(x_adv), self.common.awp)

    def _optimizer_like(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The surrogate's optimiser: of the same class as the network's, with its present learning rate."""
        if self.optimizer is None:
            self.optimizer = optimizer_like(optimizer, self.surrogate.parameters(), self._loaded)
        follow(self.optimizer, optimizer)
        return self.optimizer

    def state_dict(self) -> dict[str, Any]:
        return {
            "surrogate": self.surrogate.state_dict(),
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.surrogate.load_state_dict(state["surrogate"])
        self._loaded = state["optimizer"]
