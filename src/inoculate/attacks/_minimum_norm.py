"""What the attacks share that search the nearest adversarial image, whatever eps is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inoculate.attacks.base import MinimumNorm, carry_out
from inoculate.attacks.losses import Objective
from inoculate.attacks.success import evaluate_adversarial
from inoculate.attacks.targets import Target, build_objective
from inoculate.core.threat import Threat, distance, per_sample, project
from inoculate.models.acceleration.fast import full_precision

Search = Callable[[Tensor, Tensor], Tensor]


@dataclass
class NearestAdversarial:
    """The nearest adversarial image found for each of a batch (B×C×H×W) and its distance (B); at first itself, at ∞."""

    images: Tensor
    distances: Tensor

    @classmethod
    def none_yet(cls, x: Tensor) -> NearestAdversarial:
        """Nothing found for the images `x`."""
        return cls(x.clone(), torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device))

    def update(self, rows: Tensor, x_adv: Tensor, distances: Tensor, adversarial: Tensor) -> None:
        """Keep those images `x_adv` of these rows that are adversarial (bool) and nearer."""
        # Between equals rounding would decide, and with it the size of the batch.
        self.put(rows, x_adv, distances, adversarial & (distances < (1 - 1e-6) * self.distances[rows]))

    def put(self, rows: Tensor, x_adv: Tensor, distances: Tensor, which: Tensor) -> None:
        """Keep those images `x_adv` of these rows that `which` (bool) says."""
        self.images[rows[which]], self.distances[rows[which]] = x_adv[which], distances[which]


def find_nearest(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, search: Search) -> Tensor:
    """Carry out `search(x, y) -> x_adv` in fp32 on a `fast` copy too: at the boundary two logits are nearly equal."""
    with full_precision(model):
        return carry_out(model, x, y, threat, search)


def find_within(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, search: Search) -> Tensor:
    """The same, with the images found projected into the ball."""
    return find_nearest(model, x, y, threat, lambda x, y: project(search(x, y), x, threat))


class NearestSearch(ABC):
    """An attack whose one search serves every eps. A subclass is a frozen dataclass and has the search."""

    @abstractmethod
    def _search(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator | None
    ) -> Tensor:
        """The nearest adversarial image found for each of `x`. Of `threat` norm, range and mask matter."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The nearest adversarial image found, projected; the image itself where none was, or none was needed."""
        return find_within(model, x, y, threat, lambda x, y: self._search(model, x, y, threat, generator))

    def closest(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The nearest adversarial image found, at any distance; the image itself where none was, or none was needed.

        Of `threat` norm, range and mask matter.
        """
        return find_nearest(model, x, y, threat, lambda x, y: self._search(model, x, y, threat, generator))


@dataclass(frozen=True)
class Extended:
    """The nearest adversarial image of `attack`, moved on along the same line to the edge of the ball.

    At the boundary of the model it was found on, it fools no other model.
    """

    attack: MinimumNorm

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        nearest = self.attack.closest(model, x, y, threat, generator=generator)
        length = distance(nearest, x, threat.norm)
        further = x + (nearest - x) * per_sample(threat.eps / length.clamp_min(1e-12), x)
        return project(torch.where(per_sample(length > 0, x), further, x), x, threat)


def search_unbroken(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    target: Target,
    generator: torch.Generator | None,
    search: Callable[[Tensor, Objective], Tensor],
) -> Tensor:
    """`search(x, objective)`, with the margin as objective, for the images that are not adversarial as they are.

    The others come back unchanged.
    """
    objective = build_objective("margin", model, x, y, threat, target, generator)
    rows = (~evaluate_adversarial(model, x, objective)).nonzero().squeeze(1)
    return x.index_copy(0, rows, search(x[rows], objective.select(rows))) if len(rows) else x.clone()
