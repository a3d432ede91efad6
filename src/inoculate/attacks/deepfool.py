"""DeepFool: step by step onto the nearest boundary of the linearised model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks._minimum_norm import anywhere, search_standing, within
from inoculate.attacks.gradients import check_differentiable, zero_nonfinite
from inoculate.attacks.losses import Objective, to_fp32
from inoculate.attacks.success import evaluate_adversarial
from inoculate.attacks.targets import Target, check_target, wrong_classes
from inoculate.core.errors import InputError
from inoculate.core.options import require_count, require_positive
from inoculate.core.threat import Threat, distance, per_sample, to_plane


@dataclass(frozen=True)
class DeepFool:
    """Walk to the nearest linearised boundary until misclassified (Moosavi-Dezfooli et al. 2016, algorithm 2).

    The boundaries are those with the other classes among the `candidates` most likely ones, in any norm; steps keep to
    the range. The share `overshoot` of the way is added, to come out on the other side. Beyond the paper, the straight
    way back to the image is halved `halvings` times in search of the boundary itself. With a `target` (as in
    `OneStepTarget`) the one boundary is that where the target overtakes the most likely other class.
    """

    steps: int = 50
    candidates: int = 10
    overshoot: float = 0.02
    halvings: int = 8
    target: Target = None

    def __post_init__(self) -> None:
        require_count(steps=self.steps)
        require_positive(overshoot=self.overshoot)
        check_target(self.target)
        if not isinstance(self.candidates, int) or self.candidates < 2:
            raise InputError(f"candidates {self.candidates!r} leave no other class: give a whole number of at least 2")
        if not isinstance(self.halvings, int) or self.halvings < 0:
            raise InputError(f"halvings {self.halvings!r} is not a count: give a whole number, 0 for none")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The nearest misclassified image found, projected; the image itself where none was, or no need to look."""
        return within(model, x, y, threat, lambda x, y: self._search(model, x, y, threat, generator))

    def closest(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The nearest misclassified image found, at any distance; the image itself where none was, or no need to look.

        Of `threat` norm and range matter.
        """
        return anywhere(model, x, y, threat, lambda x, y: self._search(model, x, y, threat, generator))

    def shortened(self) -> DeepFool:
        """The same attack with two steps."""
        return replace(self, steps=2)

    def _search(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator | None
    ) -> Tensor:
        def there_and_back(x: Tensor, goal: Objective) -> Tensor:
            return _halved(model, x, self._walk(model, x, goal, threat), goal, self.halvings)

        return search_standing(model, x, y, self.target, generator, there_and_back)

    def _walk(self, model: nn.Module, x: Tensor, goal: Objective, threat: Threat) -> Tensor:
        """The first misclassified images; an image for which there is none itself."""
        with torch.no_grad():
            rivals = wrong_classes(to_fp32(model(x)), goal.y)[:, : self.candidates - 1]
        result, rows = x.clone(), torch.arange(len(x), device=x.device)
        way, x_adv = torch.zeros_like(x), x
        for _ in range(self.steps):
            way = way + _to_nearest_boundary(model, x_adv, goal, rivals, threat)
            x_adv = (x + (1 + self.overshoot) * way).clamp(threat.low, threat.high)
            done = evaluate_adversarial(model, x_adv, goal)
            result[rows[done]] = x_adv[done]
            rows, x, rivals, way, x_adv = (each[~done] for each in (rows, x, rivals, way, x_adv))
            goal = goal.select(~done)
            if not len(rows):
                break
        return result


def _to_nearest_boundary(model: nn.Module, x: Tensor, goal: Objective, rivals: Tensor, threat: Threat) -> Tensor:
    """The shortest move (like the images) after which a class draws level, seen linearly.

    Which: one of the `rivals` (B×k) with the true class, or the target, if there is one, with all others.
    """
    x = x.detach().requires_grad_()
    logits = to_fp32(model(x))
    check_differentiable(logits)
    if goal.target is None:
        leads = logits.gather(1, rivals) - logits.gather(1, goal.y[:, None])
    else:
        leads = goal(logits)[:, None]
    best, shortest = torch.zeros_like(x), torch.full_like(leads[:, 0], torch.inf)
    for lead in leads.unbind(dim=1):
        (gradient,) = torch.autograd.grad(lead.sum(), x, retain_graph=True)
        gradient = zero_nonfinite(gradient)
        rise = lead.detach().abs().clamp_min(1e-6)  # a tie would leave the image where it is
        move = to_plane(x.detach(), gradient, rise, threat)
        # A move that ends in a corner of the range counts as if it went on to the boundary.
        share = (gradient * move).flatten(1).sum(dim=1).clamp_min(1e-30) / rise
        length = distance(move, torch.zeros_like(move), threat.norm).clamp_min(1e-12) / share
        shorter = length < shortest
        best, shortest = torch.where(per_sample(shorter, x), move, best), torch.where(shorter, length, shortest)
    return best.detach()


def _halved(model: nn.Module, x: Tensor, x_adv: Tensor, goal: Objective, times: int) -> Tensor:
    """Bisect the straight way from each image to a misclassified one: the last misclassified point, or the end."""
    right, wrong = x.new_zeros(len(x)), x.new_ones(len(x))
    for _ in range(times):
        middle = (right + wrong) / 2
        over = evaluate_adversarial(model, x.lerp(x_adv, per_sample(middle, x)), goal)
        right, wrong = torch.where(over, right, middle), torch.where(over, middle, wrong)
    return x.lerp(x_adv, per_sample(wrong, x))
