"""Attacks and options that tests of evaluations share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.core.threat import Threat, project
from inoculate.data.dataset import Dataset
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.result import Evaluation


def measured(
    model: Any, data: Dataset, attacks: Any, threats: Any, *, batch_size: int = 256, **options: Any
) -> Evaluation:
    """`evaluate` without the checks; `seed` and `progress` go to it, all else are its options."""
    direct = {name: options.pop(name) for name in ("seed", "progress") if name in options}
    chosen = EvaluationOptions(**({"checks": False} | options))
    return evaluate(model, data, attacks, threats, batch_size=batch_size, options=chosen, **direct)


def correct(found: Evaluation) -> dict[tuple[str, float], int]:
    """The numbers of correct images by attack and eps."""
    return {(row.attack, row.eps): row.correct for row in found}


@dataclass(frozen=True)
class TooFar:
    """Returns images outside the ball."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return (x + 2 * threat.eps).clamp(0, 1)


@dataclass(frozen=True)
class NotANumber:
    """Returns images of NaN."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return x * torch.nan


@dataclass(frozen=True)
class Helpful:
    """Paints each image towards its true class (0 black, 1 white), as far as is allowed."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return project(y.view(-1, 1, 1, 1).expand_as(x).to(x.dtype), x, threat)


class Brightness(nn.Module):
    """Class 1 if the image is brighter than ½."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1) - 0.5
        return torch.stack([-mean, mean], dim=1)


class Misleading(nn.Module):
    """The gradient points the wrong way."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.detach() - (x - x.detach()))
        return logits
