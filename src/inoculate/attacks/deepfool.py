"""DeepFool: step by step onto the nearest boundary of the linearised model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks._minimum_norm import NearestSearch, search_unbroken
from inoculate.attacks.base import refuse_l0
from inoculate.attacks.gradients import input_gradient, zero_nonfinite
from inoculate.attacks.losses import Objective, logits_fp32
from inoculate.attacks.success import evaluate_adversarial
from inoculate.attacks.targets import Target, check_target, wrong_classes
from inoculate.core.errors import InputError
from inoculate.core.options import require_count, require_positive
from inoculate.core.threat import Threat, distance, per_sample, step_to_hyperplane


@dataclass(frozen=True)
class DeepFool(NearestSearch):
    """The nearest adversarial image, by steps onto the nearest boundary of the linearised model.

    For images B×C×H×W in the threat's range, norms linf, l2 and l1; the steps keep to the range. Beyond the paper, the
    straight line from the image to the adversarial one is bisected for the boundary itself.

    Options:
        steps: number of steps at most; an image that is adversarial takes no more.
        candidates: the boundaries are those between the true class and the others among this many most likely ones.
        overshoot: the whole perturbation is lengthened by this fraction, to cross the boundary.
        halvings: bisection steps; 0 for none, as in the paper.
        target: as in `OneStepTarget`: the one boundary is where that class overtakes the most likely other one.

    Raises `InputError` for an option out of its range, images outside theirs, or a model that is not differentiable.
    Source: Moosavi-Dezfooli et al. 2016, algorithm 2.
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

    def shortened(self) -> DeepFool:
        """The same attack with two steps."""
        return replace(self, steps=2)

    def _search(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator | None
    ) -> Tensor:
        refuse_l0("DeepFool", threat)

        def walk_and_bisect(x: Tensor, objective: Objective) -> Tensor:
            return _bisect(model, x, self._walk(model, x, objective, threat), objective, self.halvings)

        return search_unbroken(model, x, y, threat, self.target, generator, walk_and_bisect)

    def _walk(self, model: nn.Module, x: Tensor, objective: Objective, threat: Threat) -> Tensor:
        """The first adversarial image met on the way from each image; the image itself where there is none."""
        with torch.no_grad():
            others = wrong_classes(logits_fp32(model, x), objective.y)[:, : self.candidates - 1]
        result, rows = x.clone(), torch.arange(len(x), device=x.device)
        delta, x_adv = torch.zeros_like(x), x
        for _ in range(self.steps):
            delta = delta + _step_to_boundary(model, x_adv, objective, others, threat)
            x_adv = (x + (1 + self.overshoot) * delta).clamp(threat.low, threat.high)
            done = evaluate_adversarial(model, x_adv, objective)
            result[rows[done]] = x_adv[done]
            rows, x, others, delta, x_adv = (each[~done] for each in (rows, x, others, delta, x_adv))
            objective = objective.select(~done)
            if not len(rows):
                break
        return result


def _step_to_boundary(model: nn.Module, x: Tensor, objective: Objective, others: Tensor, threat: Threat) -> Tensor:
    """The shortest step (like the images) to a boundary of the linearised model.

    The boundaries: of the `others` (B×k) with the true class, or of the target, if there is one, with all others.
    """
    x = x.detach().requires_grad_()
    logits = logits_fp32(model, x)
    if objective.target is None:
        leads = logits.gather(1, others) - logits.gather(1, objective.y[:, None])
    else:
        leads = objective(logits)[:, None]
    best, shortest = torch.zeros_like(x), torch.full_like(leads[:, 0], torch.inf)
    for lead in leads.unbind(dim=1):
        gradient = objective.inside(zero_nonfinite(input_gradient(lead.sum(), x, retain_graph=True)))
        rise = lead.detach().abs().clamp_min(1e-6)  # a tie would leave the image where it is
        step = step_to_hyperplane(x.detach(), gradient, rise, threat)
        # A step that ends in a corner of the range counts as if it went on to the boundary.
        reached = (gradient * step).flatten(1).sum(dim=1).clamp_min(1e-30) / rise
        length = distance(step, torch.zeros_like(step), threat.norm).clamp_min(1e-12) / reached
        shorter = length < shortest
        best, shortest = torch.where(per_sample(shorter, x), step, best), torch.where(shorter, length, shortest)
    return best.detach()


def _bisect(model: nn.Module, x: Tensor, x_adv: Tensor, objective: Objective, times: int) -> Tensor:
    """Bisect the line from each image to its adversarial one: the last adversarial point, or the end."""
    right, wrong = x.new_zeros(len(x)), x.new_ones(len(x))
    for _ in range(times):
        middle = (right + wrong) / 2
        adversarial = evaluate_adversarial(model, x.lerp(x_adv, per_sample(middle, x)), objective)
        right, wrong = torch.where(adversarial, right, middle), torch.where(adversarial, middle, wrong)
    return x.lerp(x_adv, per_sample(wrong, x))
