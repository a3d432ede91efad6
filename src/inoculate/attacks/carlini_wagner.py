"""Carlini and Wagner's attack: the least squared distance that still fools, by gradient descent in tanh space."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks._minimum_norm import Nearest, anywhere, search_standing, within
from inoculate.attacks.gradients import value_and_input_grad
from inoculate.attacks.losses import Objective
from inoculate.attacks.success import is_adversarial, verify_adversarial
from inoculate.attacks.targets import Target, check_target
from inoculate.core.errors import InputError
from inoculate.core.options import require_count, require_nonnegative, require_positive
from inoculate.core.threat import Threat, distance, per_sample


@dataclass(frozen=True)
class CarliniWagner:
    """Least squared L2 distance plus `constant` times the hinge of the margin (Carlini and Wagner 2017, section VI.A).

    Adam with rate `lr` walks in tanh space, where every point lies in the range. `search` rounds of `steps` steps look
    for the smallest constant that fools: per image ten times larger until one does, then by bisection. An image leaves
    a round when a fifth of the steps has brought it nothing. Only a margin of at least `confidence` counts, and with a
    `target` (as in `OneStepTarget`) only the target class. Raises `InputError` for norms other than l2.
    """

    steps: int = 500
    search: int = 9
    lr: float = 0.01
    confidence: float = 0.0
    constant: float = 1e-3
    target: Target = None

    def __post_init__(self) -> None:
        require_count(steps=self.steps, search=self.search)
        require_positive(lr=self.lr, constant=self.constant)
        require_nonnegative(confidence=self.confidence)
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

        Of `threat` the range matters.
        """
        return anywhere(model, x, y, threat, lambda x, y: self._search(model, x, y, threat, generator))

    def shortened(self) -> CarliniWagner:
        """The same attack with two rounds of two steps."""
        return replace(self, steps=2, search=2)

    def _search(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator | None
    ) -> Tensor:
        if threat.norm != "l2":
            raise InputError(f"Carlini and Wagner's attack is made for l2: for {threat.norm} use fmn or fab_t")

        def bisect(x: Tensor, goal: Objective) -> Tensor:
            best = Nearest(x)
            constant = torch.full_like(best.far, self.constant)
            low, high = torch.zeros_like(constant), torch.full_like(constant, torch.inf)
            for _ in range(self.search):
                found = self._descend(model, x, goal, threat, constant, best)
                low, high = torch.where(found, low, constant), torch.where(found, constant, high)
                constant = torch.where(high.isfinite(), (low + high) / 2, 10 * constant)
            return best.image

        return search_standing(model, x, y, self.target, generator, bisect)

    def _descend(
        self, model: nn.Module, x: Tensor, goal: Objective, threat: Threat, constant: Tensor, best: Nearest
    ) -> Tensor:
        """One round with these constants (B): `best` hears of what is found. Which images were fooled (B, bool)."""
        found, rows = torch.zeros_like(goal.y, dtype=torch.bool), torch.arange(len(x), device=x.device)
        middle, half = (threat.low + threat.high) / 2, (threat.high - threat.low) / 2
        inside = 1 - max(1e-6, torch.finfo(x.dtype).eps)  # the ends of the range lie at infinity
        w = ((x - middle) / half).clamp(-inside, inside).atanh()
        mean, square = torch.zeros_like(x), torch.zeros_like(x)
        lowest = before = torch.full_like(constant, torch.inf)
        for number in range(1, self.steps + 1):
            squashed = w.tanh()
            x_adv = (middle + half * squashed).clamp(threat.low, threat.high)
            values, uphill, logits = value_and_input_grad(model, x_adv, goal)
            at = distance(x_adv, x, threat.norm)
            hit = verify_adversarial(model, x_adv, is_adversarial(logits, goal.y, goal.target), goal.y, goal.target) & (
                values >= self.confidence
            )
            best.offer(rows, x_adv, at, hit)
            found[rows] |= hit
            hinge = (self.confidence - values).clamp_min(0)
            slope = 2 * (x_adv - x) - per_sample(constant * (hinge > 0), x) * uphill
            gradient = slope * half * (1 - squashed**2)
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            w = w - self.lr * (mean / (1 - 0.9**number)) / ((square / (1 - 0.999**number)).sqrt() + 1e-8)
            lowest = lowest.minimum(at**2 + constant * hinge)  # Adam overshoots: the last loss alone says little
            if number % max(self.steps // 5, 1) == 0:
                keep = lowest < 0.9999 * before
                state = (rows, x, constant, w, mean, square, lowest, lowest)
                rows, x, constant, w, mean, square, lowest, before = (each[keep] for each in state)
                goal = goal.select(keep)
                if not len(rows):
                    break
        return found
