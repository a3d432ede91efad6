"""Free adversarial training: one backward pass serves the weights and the perturbation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.core.threat import Threat, project, steepest_direction
from inoculate.training.methods.adversarial import Batch, minimise
from inoculate.training.methods.options import CommonOptions, check_method


@dataclass(frozen=True)
class Free:
    """Each batch is replayed `replays` times; every replay steps both weights and images (Shafahi et al. 2019, alg. 1).

    The perturbation is carried over to the next replay and the next batch. By design it is found in train mode. `step`
    is relative to eps.
    """

    replays: int = 4
    step: float = 1.0

    def __post_init__(self) -> None:
        check_method(replays=self.replays, step=self.step)

    @property
    def loss_passes(self) -> int:
        return self.replays

    @property
    def passes(self) -> float:
        return self.loss_passes


class FreeMethod:
    """The update of `Free`: as many optimiser steps as replays. It is a `Method` that keeps the perturbation."""

    def __init__(self, defence: Free, threat: Threat, common: CommonOptions) -> None:
        self.defence, self.threat, self.common = defence, threat, common
        self.delta: Tensor | None = None

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
        ball = replace(threat, low=-1e3, high=1e3)  # the next images are others: their range is not this batch's
        delta = torch.zeros_like(x) if self.delta is None or self.delta.shape != x.shape else self.delta.to(x)
        batch, measured = Batch(model, x, y, threat, generator, smoothing=self.common.smoothing), {}
        for _ in range(self.defence.replays):
            x_adv = project(x + delta, x, threat).requires_grad_()

            measured = minimise(model, optimizer, y, partial(batch.cross_entropy, x_adv), self.common.awp)
            assert x_adv.grad is not None
            moved = delta + self.defence.step * threat.eps * steepest_direction(x_adv.grad, threat.norm)
            delta = project(moved, torch.zeros_like(x), ball)
        self.delta = delta.detach()
        return measured

    def state_dict(self) -> dict[str, Any]:
        return {"delta": self.delta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.delta = state["delta"]
