"""Free adversarial training: one backward pass serves the weights and the perturbation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.core.options import require_count, require_positive
from inoculate.core.threat import Threat, project, steepest_direction, step_along
from inoculate.training.methods.adversarial import Batch, minimise, threat_at
from inoculate.training.methods.options import CommonOptions


@dataclass(frozen=True)
class FreeAT:
    """Each batch is replayed `replays` times; every replay steps both weights and images (Shafahi et al. 2019, alg. 1).

    The perturbation is carried over to the next replay and the next batch. By design it is found in train mode.

    Options:
        replays: passes over each batch.
        step: length of the perturbation's steps, relative to eps.
    """

    replays: int = 4
    step: float = 1.0

    def __post_init__(self) -> None:
        require_count(replays=self.replays)
        require_positive(step=self.step)

    @property
    def loss_passes(self) -> int:
        return self.replays

    @property
    def passes(self) -> float:
        return self.loss_passes

    def begin(self, threat: Threat, helpers: tuple[nn.Module, ...], common: CommonOptions) -> FreeMethod:
        return FreeMethod(self, threat, common)


class FreeMethod:
    """The update of `FreeAT`: as many optimiser steps as replays.

    It is a `Method`, and `Stateful`: the perturbation.
    """

    def __init__(self, options: FreeAT, threat: Threat, common: CommonOptions) -> None:
        self.options, self.threat, self.common = options, threat, common
        self.delta: Tensor | None = None

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
        ball = replace(threat, low=-1e3, high=1e3)  # the range of pixels is that of the next images, not of this batch
        delta = torch.zeros_like(x) if self.delta is None or self.delta.shape != x.shape else self.delta.to(x)
        batch, metrics = Batch(model, x, y, threat, generator, smoothing=self.common.smoothing), {}
        for _ in range(self.options.replays):
            x_adv = project(x + delta, x, threat).requires_grad_()
            metrics = minimise(model, optimizer, y, partial(batch.cross_entropy, x_adv), self.common.awp)
            assert x_adv.grad is not None
            direction, length = steepest_direction(x_adv.grad, threat.norm), self.options.step * threat.eps
            delta = delta + step_along(x_adv.detach(), x, direction, length, threat)
            delta = project(delta, torch.zeros_like(x), ball)
        self.delta = delta.detach()
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {"delta": self.delta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.delta = state["delta"]
