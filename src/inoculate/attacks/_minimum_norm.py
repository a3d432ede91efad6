"""What the attacks share that look for the nearest misclassified image, whatever eps is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from inoculate.attacks.base import carry_out
from inoculate.attacks.losses import LOSSES, Objective
from inoculate.attacks.success import evaluate_adversarial
from inoculate.attacks.targets import Target, resolve_targets
from inoculate.core.threat import Threat, project
from inoculate.models.acceleration.fast import full_precision


class Nearest:
    """The nearest image found for each of a batch, and how far it is; at first the image itself, at infinity."""

    def __init__(self, x: Tensor) -> None:
        self.image, self.far = x.clone(), torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)

    def offer(self, rows: Tensor, x_adv: Tensor, at: Tensor, hit: Tensor) -> None:
        """Keep those of the images `x_adv` of these rows that `hit` and are nearer, at the distances `at`."""
        nearer = hit & (at < (1 - 1e-6) * self.far[rows])  # between equals rounding would decide, and with it the batch
        self.image[rows[nearer]], self.far[rows[nearer]] = x_adv[nearer], at[nearer]


def search_standing(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    target: Target,
    generator: torch.Generator | None,
    search: Callable[[Tensor, Objective], Tensor],
) -> Tensor:
    """`search(x, goal)` for the images that have not arrived yet, with the margin as goal; the others as they are."""
    goal = Objective(LOSSES["margin"], y, resolve_targets(model, x, y, target, generator))
    rows = (~evaluate_adversarial(model, x, goal)).nonzero().squeeze(1)
    return x.index_copy(0, rows, search(x[rows], goal.select(rows))) if len(rows) else x.clone()


def anywhere(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, search: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Carry out `search(x, y)` for the nearest images: in fp32, for at the boundary two logits are nearly equal."""
    with full_precision(model):
        return carry_out(model, x, y, threat, search)


def within(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, search: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The same, and project what is found into the ball."""
    return anywhere(model, x, y, threat, lambda x, y: project(search(x, y), x, threat))
