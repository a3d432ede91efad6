"""Examples from a small surrogate that learns alongside, finished on the trained network itself."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inoculate.attacks.pgd import PGD
from inoculate.core.threat import Threat
from inoculate.models.acceleration.folding import FoldedCopies
from inoculate.training.methods.adversarial import Batch, minimise
from inoculate.training.methods.options import CommonOptions, check_method


@dataclass(frozen=True)
class LiveSurrogate:
    """PGD of `steps` on a surrogate that is trained on the same examples alongside, then `own_steps` on the model.

    Each step is `step`·eps, each own step `own_step`·eps. With `own_steps=0` the model sees the surrogate's examples as
    they are. The first helper is the surrogate; it is trained from where it is.
    """

    steps: int = 7
    step: float = 0.25
    own_steps: int = 1
    own_step: float = 0.5
    loss_passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_method(steps=self.steps, step=self.step)
        if self.own_steps:
            check_method(own_steps=self.own_steps)
        check_method(step=self.own_step)

    @property
    def passes(self) -> float:
        return self.steps + 1 + self.own_steps + self.loss_passes


class LiveSurrogateMethod:
    """The update of `LiveSurrogate`: one optimiser step of the surrogate, one of the model. It keeps the surrogate."""

    def __init__(self, defence: LiveSurrogate, threat: Threat, surrogate: nn.Module, common: CommonOptions) -> None:
        self.defence, self.threat, self.surrogate, self.common = defence, threat, surrogate, common
        self.copies = FoldedCopies()
        self.optimizer: torch.optim.Optimizer | None = None
        self._kept: dict[str, Any] | None = None

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
        threat, d = replace(self.threat, eps=self.threat.eps * self.common.strength(share)), self.defence
        mine = self._optimizer_like(optimizer)
        x_adv = PGD(d.steps, d.step)(self.copies.current(self.surrogate, x), x, y, threat, generator=generator)
        self.surrogate.train()
        batch = Batch(model, x, y, threat, generator, smoothing=self.common.smoothing)
        minimise(self.surrogate, mine, y, lambda: replace(batch, model=self.surrogate).cross_entropy(x_adv), 0.0)
        if d.own_steps:
            x_adv = PGD(d.own_steps, d.own_step)(
                self.copies.current(model, x), x, y, threat, generator=generator, start=x_adv
            )
        return minimise(model, optimizer, y, lambda: batch.cross_entropy(x_adv), self.common.awp)

    def _optimizer_like(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The surrogate's optimiser: of the model's kind, at the learning rate of the moment."""
        if self.optimizer is None:
            kind = type(optimizer)
            known = {k: v for k, v in optimizer.defaults.items() if k in inspect.signature(kind).parameters}
            self.optimizer = kind(self.surrogate.parameters(), **known)
            if self._kept:
                self.optimizer.load_state_dict(self._kept)
        mine, theirs = self.optimizer.param_groups[0], optimizer.param_groups[0]
        mine.update({key: value for key, value in theirs.items() if key != "params"})
        return self.optimizer

    def state_dict(self) -> dict[str, Any]:
        return {
            "surrogate": self.surrogate.state_dict(),
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.surrogate.load_state_dict(state["surrogate"])
        self._kept = state["optimizer"]
