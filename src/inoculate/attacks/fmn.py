"""FMN: ascent in a ball whose radius adapts to each image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks._minimum_norm import Nearest, anywhere, search_standing, within
from inoculate.attacks.gradients import value_and_input_grad
from inoculate.attacks.losses import Objective
from inoculate.attacks.success import is_adversarial, verify_adversarial
from inoculate.attacks.targets import Target, check_target
from inoculate.core.options import require_count, require_positive
from inoculate.core.threat import Threat, distance, dual_norm, project, steepest_direction


@dataclass(frozen=True)
class FMN:
    """Ascend the margin in a ball that shrinks where it fools and else grows (Pintor et al. 2021, algorithm 1).

    A step is `alpha` long (L2, in pixel units), the radius changes by the share `gamma`; cosines take both down, to a
    100th and a 50th. With a `target` (as in `OneStepTarget`) only the target class counts.
    """

    steps: int = 100
    alpha: float = 1.0
    gamma: float = 0.05
    target: Target = None

    def __post_init__(self) -> None:
        require_count(steps=self.steps)
        require_positive(alpha=self.alpha, gamma=self.gamma)
        check_target(self.target)

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

    def shortened(self) -> FMN:
        """The same attack with two steps."""
        return replace(self, steps=2)

    def _search(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator | None
    ) -> Tensor:
        def tighten(x: Tensor, goal: Objective) -> Tensor:
            best, rows, x_adv = Nearest(x), torch.arange(len(x), device=x.device), x
            widest = distance(torch.where(x - threat.low > threat.high - x, threat.low, threat.high), x, threat.norm)
            radius = torch.zeros_like(widest)
            for number in range(self.steps):
                share = (1 + math.cos(math.pi * number / self.steps)) / 2
                alpha, gamma = self.alpha * (0.01 + 0.99 * share), self.gamma * (0.02 + 0.98 * share)
                values, uphill, logits = value_and_input_grad(model, x_adv, goal)
                at, hit = distance(x_adv, x, threat.norm), is_adversarial(logits, goal.y, goal.target)
                hit = verify_adversarial(model, x_adv, hit, goal.y, goal.target)
                best.offer(rows, x_adv, at, hit)
                # Until the first success, the linearised margin tells how far the boundary is. Beyond the paper, the
                # radius goes a little further, lest rounding decide, and grows in any case: the margin may mislead.
                border = at + (1 + gamma) * values.abs() / dual_norm(uphill, threat.norm).clamp_min(1e-12)
                larger = radius * (1 + gamma)
                larger = torch.where(best.far.isfinite(), larger, larger.maximum(border))
                radius = torch.where(hit, (radius * (1 - gamma)).minimum(best.far), larger).minimum(widest)
                # Into the range first: what it cuts off must not use up the ball.
                ahead = (x_adv + alpha * steepest_direction(uphill, "l2")).clamp(threat.low, threat.high)
                x_adv = project(ahead, x, threat, radius)
            return best.image

        return search_standing(model, x, y, self.target, generator, tighten)
