"""Fast minimum-norm attack: ascent in a ball whose radius adapts to each image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks._minimum_norm import NearestAdversarial, NearestSearch, search_unbroken
from inoculate.attacks.gradients import value_and_input_grad
from inoculate.attacks.losses import Objective
from inoculate.attacks.success import is_adversarial, verify_adversarial
from inoculate.attacks.targets import Target, check_target
from inoculate.core.options import require_count, require_positive
from inoculate.core.threat import Threat, distance, first_order_distance, project, steepest_direction


@dataclass(frozen=True)
class FMN(NearestSearch):
    """The nearest adversarial image, by ascent in a ball that shrinks where it succeeds and else grows.

    For images B×C×H×W in the threat's range, in every norm. The paper's symbols: a step of length α (in L2) moves the
    perturbation δ up the margin, and the radius ε of its ball is multiplied by 1 − γ where x + δ is adversarial, else
    by 1 + γ. Cosine schedules take α down to a 100th and γ to a 50th.

    Options:
        steps: number of steps.
        alpha: α of the first step, L2 in pixel units of [0, 1].
        gamma: γ of the first step.
        target: as in `OneStepTarget`: only that class counts; None for untargeted.

    Raises `InputError` for an option out of its range, images outside theirs, or a model that is not differentiable.
    Source: Pintor et al. 2021, algorithm 1.
    """

    steps: int = 100
    alpha: float = 1.0
    gamma: float = 0.05
    target: Target = None

    def __post_init__(self) -> None:
        require_count(steps=self.steps)
        require_positive(alpha=self.alpha, gamma=self.gamma)
        check_target(self.target)

    def shortened(self) -> FMN:
        """The same attack with two steps."""
        return replace(self, steps=2)

    def _search(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator | None
    ) -> Tensor:
        def ascend(x: Tensor, objective: Objective) -> Tensor:
            return self._ascend(model, x, objective, threat)

        return search_unbroken(model, x, y, threat, self.target, generator, ascend)

    def _ascend(self, model: nn.Module, x: Tensor, objective: Objective, threat: Threat) -> Tensor:
        nearest, rows, x_adv = NearestAdversarial.none_yet(x), torch.arange(len(x), device=x.device), x
        farthest = torch.where(x - threat.low > threat.high - x, threat.low, threat.high)
        largest = distance(farthest, x, threat.norm)  # no ball needs to be larger than the range
        epsilon = torch.zeros_like(largest)
        y, target = objective.y, objective.target
        for number in range(self.steps):
            cosine = (1 + math.cos(math.pi * number / self.steps)) / 2
            alpha, gamma = self.alpha * (0.01 + 0.99 * cosine), self.gamma * (0.02 + 0.98 * cosine)
            margin, gradient, logits = value_and_input_grad(model, x_adv, objective)
            length = distance(x_adv, x, threat.norm)
            adversarial = verify_adversarial(model, x_adv, is_adversarial(logits, y, target), y, target)
            nearest.update(rows, x_adv, length, adversarial)
            # Until the first success, the linearised margin estimates the distance of the boundary. Beyond the paper,
            # ε goes a little further, so that rounding does not decide, and always grows: the margin may mislead.
            boundary = length + (1 + gamma) * first_order_distance(margin.abs(), gradient, threat.norm).nan_to_num()
            grown = epsilon * (1 + gamma)
            grown = torch.where(nearest.distances.isfinite(), grown, grown.maximum(boundary))
            shrunk = (epsilon * (1 - gamma)).minimum(nearest.distances)
            epsilon = torch.where(adversarial, shrunk, grown).minimum(largest)
            # Into the range first: what it cuts off must not use up the ball.
            ahead = (x_adv + alpha * steepest_direction(gradient, "l2")).clamp(threat.low, threat.high)
            x_adv = project(ahead, x, threat, epsilon)
        return nearest.images
