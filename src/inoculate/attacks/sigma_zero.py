"""σ-zero: the fewest changed pixels, by descent on a smooth count of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks._minimum_norm import NearestAdversarial, NearestSearch, search_unbroken
from inoculate.attacks.base import require_l0
from inoculate.attacks.gradients import value_and_input_grad
from inoculate.attacks.losses import Objective
from inoculate.attacks.success import is_adversarial, verify_adversarial
from inoculate.attacks.targets import Target, check_target
from inoculate.core.options import require_count, require_nonnegative, require_positive
from inoculate.core.threat import Threat, distance, per_sample


@dataclass(frozen=True)
class SigmaZero(NearestSearch):
    """The adversarial image with the fewest changed pixels, by descent on the margin and a smooth count of pixels.

    For images B×C×H×W in the threat's range, norm l0. The paper counts values; here a pixel counts once, however many
    of its channels change: the two agree on grey images. The paper's symbols: Adam with step size η, from `lr` down to
    a tenth of it, walks down the hinge of the margin plus the mean over the pixels of ‖δ‖² / (‖δ‖² + σ); then pixels
    that changed by less than τ are put back. τ grows by `adjustment` · η where the image is adversarial, else shrinks.

    Options:
        steps: number of steps.
        lr: η of the first step.
        sigma: σ, the smoothing of the count, in squared pixel units of [0, 1].
        threshold: τ of the first step, in pixel units.
        adjustment: the paper's t, the change of τ relative to η.
        target: as in `OneStepTarget`: only that class counts; None for untargeted.

    Raises `InputError` for another norm, an option out of its range, images outside theirs, or a model that is not
    differentiable.
    Source: Cinà et al. 2025, algorithm 1.
    """

    steps: int = 1000
    lr: float = 1.0
    sigma: float = 1e-3
    threshold: float = 0.3
    adjustment: float = 0.01
    target: Target = None

    def __post_init__(self) -> None:
        require_count(steps=self.steps)
        require_positive(lr=self.lr, sigma=self.sigma, adjustment=self.adjustment)
        require_nonnegative(threshold=self.threshold)
        check_target(self.target)

    def shortened(self) -> SigmaZero:
        """The same attack with two steps."""
        return replace(self, steps=2)

    def _search(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator | None
    ) -> Tensor:
        require_l0("σ-zero", threat)

        def descend(x: Tensor, objective: Objective) -> Tensor:
            return self._descend(model, x, objective, threat)

        return search_unbroken(model, x, y, threat, self.target, generator, descend)

    def _descend(self, model: nn.Module, x: Tensor, objective: Objective, threat: Threat) -> Tensor:
        nearest, rows, x_adv = NearestAdversarial.none_yet(x), torch.arange(len(x), device=x.device), x
        mean, square = torch.zeros_like(x), torch.zeros_like(x)  # Adam's moments
        tau, eta = torch.full_like(nearest.distances, self.threshold), self.lr
        for number in range(self.steps + 1):
            margin, gradient, logits = value_and_input_grad(model, x_adv, objective)
            y, target = objective.y, objective.target
            adversarial = verify_adversarial(model, x_adv, is_adversarial(logits, y, target), y, target)
            nearest.update(rows, x_adv, distance(x_adv, x, threat.norm), adversarial)
            if number == self.steps:
                break
            descent = _count_gradient(x_adv - x, self.sigma) - per_sample(margin < 0, x) * gradient
            descent = descent / per_sample(descent.flatten(1).abs().amax(dim=1), x).clamp_min(1e-12)
            mean, square = 0.9 * mean + 0.1 * descent, 0.999 * square + 0.001 * descent**2
            corrected = (square / (1 - 0.999 ** (number + 1))).sqrt() + 1e-8
            x_adv = x_adv - eta / (1 - 0.9 ** (number + 1)) * mean / corrected
            eta = self.lr * (0.1 + 0.9 * (1 + math.cos(math.pi * (number + 1) / self.steps)) / 2)
            tau = (tau + self.adjustment * eta * torch.where(adversarial, 1.0, -1.0)).clamp(0, 1)
            x_adv = x_adv.clamp(threat.low, threat.high)
            moved = (x_adv - x).abs().amax(dim=1, keepdim=True)
            x_adv = torch.where((moved >= per_sample(tau, x)) & (moved > 0), x_adv, x)
        return nearest.images


def _count_gradient(delta: Tensor, sigma: float) -> Tensor:
    """The gradient, in δ, of the mean over the pixels of ‖δ‖² / (‖δ‖² + σ)."""
    pixels = delta.shape[-2] * delta.shape[-1]
    return 2 * sigma * delta / (delta.square().sum(dim=1, keepdim=True) + sigma) ** 2 / pixels
