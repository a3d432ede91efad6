"""DeepFool: step by step onto the nearest boundary of the linearised model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inoculate.attacks.attack import check_options, wrong_classes
from inoculate.attacks.losses import check_differentiable, finite, in_full
from inoculate.attacks.minimum import anywhere, check_positive, misclassified, search_right, within
from inoculate.errors import InputError
from inoculate.threat import Threat, distance, per_sample, to_plane


@dataclass(frozen=True)
class DeepFool:
    """Walk to the nearest linearised boundary until misclassified (Moosavi-Dezfooli et al. 2016, algorithm 2).

    The boundaries are those with the other classes among the `candidates` most likely ones, in any norm; steps keep to
    the range. The share `overshoot` of the way is added, to come out on the other side. Beyond the paper, the straight
    way back to the image is halved `halvings` times in search of the boundary itself.
    """

    steps: int = 50
    candidates: int = 10
    overshoot: float = 0.02
    halvings: int = 8

    def __post_init__(self) -> None:
        check_options(steps=self.steps)
        check_positive(overshoot=self.overshoot)
        if not isinstance(self.candidates, int) or self.candidates < 2:
            raise InputError(f"candidates {self.candidates!r} leave no other class: give a whole number of at least 2")
        if not isinstance(self.halvings, int) or self.halvings < 0:
            raise InputError(f"halvings {self.halvings!r} is not a count: give a whole number, 0 for none")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The nearest misclassified image found, projected; the image itself where none was, or no need to look."""
        return within(model, x, y, threat, lambda x, y: self._search(model, x, y, threat))

    def closest(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The nearest misclassified image found, at any distance; the image itself where none was, or no need to look.

        Of `threat` norm and range matter.
        """
        return anywhere(model, x, y, threat, lambda x, y: self._search(model, x, y, threat))

    def _search(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        def there_and_back(x: Tensor, y: Tensor) -> Tensor:
            return _halved(model, x, self._walk(model, x, y, threat), y, self.halvings)

        return search_right(model, x, y, None, None, lambda x, goal: there_and_back(x, goal.y))

    def _walk(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        """The first misclassified images; an image for which there is none itself."""
        with torch.no_grad():
            rivals = wrong_classes(in_full(model(x)), y)[:, : self.candidates - 1]
        result, rows = x.clone(), torch.arange(len(x), device=x.device)
        way, x_adv = torch.zeros_like(x), x
        for _ in range(self.steps):
            way = way + _to_nearest_boundary(model, x_adv, y, rivals, threat)
            x_adv = (x + (1 + self.overshoot) * way).clamp(threat.low, threat.high)
            done = misclassified(model, x_adv, y)
            result[rows[done]] = x_adv[done]
            rows, x, y, rivals, way, x_adv = (each[~done] for each in (rows, x, y, rivals, way, x_adv))
            if not len(rows):
                break
        return result


def _to_nearest_boundary(model: nn.Module, x: Tensor, y: Tensor, rivals: Tensor, threat: Threat) -> Tensor:
    """The shortest move (like the images) that makes one of the `rivals` (B×k) draw level with `y`, seen linearly."""
    x = x.detach().requires_grad_()
    logits = in_full(model(x))
    check_differentiable(logits)
    leads = logits.gather(1, rivals) - logits.gather(1, y[:, None])
    best, shortest = torch.zeros_like(x), torch.full_like(leads[:, 0], torch.inf)
    for lead in leads.unbind(dim=1):
        (gradient,) = torch.autograd.grad(lead.sum(), x, retain_graph=True)
        gradient = finite(gradient)
        rise = lead.detach().abs().clamp_min(1e-6)  # a tie would leave the image where it is
        move = to_plane(x.detach(), gradient, rise, threat)
        # A move that ends in a corner of the range counts as if it went on to the boundary.
        share = (gradient * move).flatten(1).sum(dim=1).clamp_min(1e-30) / rise
        length = distance(move, torch.zeros_like(move), threat.norm).clamp_min(1e-12) / share
        shorter = length < shortest
        best, shortest = torch.where(per_sample(shorter, x), move, best), torch.where(shorter, length, shortest)
    return best.detach()


def _halved(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, times: int) -> Tensor:
    """Bisect the straight way from each image to a misclassified one: the last misclassified point, or the end."""
    right, wrong = x.new_zeros(len(x)), x.new_ones(len(x))
    for _ in range(times):
        middle = (right + wrong) / 2
        over = misclassified(model, x.lerp(x_adv, per_sample(middle, x)), y)
        right, wrong = torch.where(over, right, middle), torch.where(over, middle, wrong)
    return x.lerp(x_adv, per_sample(wrong, x))
