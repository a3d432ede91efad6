"""Carlini and Wagner's attack: the least squared distance that is adversarial, by gradient descent in tanh space."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks._minimum_norm import NearestAdversarial, NearestSearch, search_unbroken
from inoculate.attacks.base import refuse_l0
from inoculate.attacks.gradients import value_and_input_grad
from inoculate.attacks.losses import Objective
from inoculate.attacks.success import is_adversarial, verify_adversarial
from inoculate.attacks.targets import Target, check_target
from inoculate.core.errors import InputError
from inoculate.core.options import require_count, require_nonnegative, require_positive
from inoculate.core.threat import Threat, distance, per_sample


@dataclass(frozen=True)
class CarliniWagner(NearestSearch):
    """The nearest adversarial image in L2, by descent on ‖x_adv − x‖² + c · hinge(margin).

    For images B×C×H×W in the threat's range, norm l2 only. Adam walks in tanh space, where every point lies in the
    range. An image leaves a round when a fifth of the steps has not lowered its loss.

    Options:
        steps: steps of a round.
        search: rounds of the search for the smallest constant c that is enough: ten times larger until one is, then
            by bisection.
        lr: Adam's learning rate, in tanh space.
        confidence: the margin (in logits) from which an image counts as adversarial.
        constant: c of the first round.
        target: as in `OneStepTarget`: only that class counts; None for untargeted.

    Raises `InputError` for another norm, an option out of its range, images outside theirs, or a model that is not
    differentiable.
    Source: Carlini and Wagner 2017, section VI.A.
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

    def shortened(self) -> CarliniWagner:
        """The same attack with two rounds of two steps."""
        return replace(self, steps=2, search=2)

    def _search(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator | None
    ) -> Tensor:
        refuse_l0("Carlini and Wagner's attack", threat)
        if threat.norm != "l2":
            raise InputError(f"Carlini and Wagner's attack is made for l2: for {threat.norm} use fmn or fab_t")

        def bisect(x: Tensor, objective: Objective) -> Tensor:
            nearest = NearestAdversarial.none_yet(x)
            constant = torch.full_like(nearest.distances, self.constant)
            low, high = torch.zeros_like(constant), torch.full_like(constant, torch.inf)
            for _ in range(self.search):
                run = _Descent.begin(x, objective, constant, threat)
                adversarial = self._descend(model, run, threat, nearest)
                low, high = torch.where(adversarial, low, constant), torch.where(adversarial, constant, high)
                constant = torch.where(high.isfinite(), (low + high) / 2, 10 * constant)
            return nearest.images

        return search_unbroken(model, x, y, threat, self.target, generator, bisect)

    def _descend(self, model: nn.Module, run: _Descent, threat: Threat, nearest: NearestAdversarial) -> Tensor:
        """One round: updates `nearest`. Returns for which images (B, bool) it met an adversarial one."""
        found = torch.zeros_like(run.objective.y, dtype=torch.bool)
        middle, half = _middle_and_half(threat)
        for number in range(1, self.steps + 1):
            squashed = run.w.tanh()
            x_adv = run.objective.inside((middle + half * squashed).clamp(threat.low, threat.high), run.x)
            margin, margin_grad, logits = value_and_input_grad(model, x_adv, run.objective)
            distances = distance(x_adv, run.x, threat.norm)
            y, target = run.objective.y, run.objective.target
            adversarial = verify_adversarial(model, x_adv, is_adversarial(logits, y, target), y, target)
            adversarial = adversarial & (margin >= self.confidence)
            nearest.update(run.rows, x_adv, distances, adversarial)
            found[run.rows] |= adversarial
            hinge = (self.confidence - margin).clamp_min(0)
            gradient = 2 * (x_adv - run.x) - per_sample(run.constant * (hinge > 0), run.x) * margin_grad
            run.adam(gradient * half * (1 - squashed**2), number, self.lr)
            # Adam overshoots: the last loss alone says little.
            run.lowest = run.lowest.minimum(distances**2 + run.constant * hinge)
            if number % max(self.steps // 5, 1) == 0:
                run = run.select(run.lowest < 0.9999 * run.lowest_before)
                run.lowest_before = run.lowest
                if not len(run.rows):
                    break
        return found


@dataclass
class _Descent:
    """The images that still descend (`rows` of the batch) and what belongs to them."""

    rows: Tensor
    x: Tensor
    objective: Objective
    constant: Tensor
    w: Tensor  # the images in tanh space
    mean: Tensor  # Adam's moments
    square: Tensor
    lowest: Tensor  # loss so far
    lowest_before: Tensor  # at the last check

    @classmethod
    def begin(cls, x: Tensor, objective: Objective, constant: Tensor, threat: Threat) -> _Descent:
        middle, half = _middle_and_half(threat)
        inside = 1 - max(1e-6, torch.finfo(x.dtype).eps)  # the ends of the range lie at infinity
        w = ((x - middle) / half).clamp(-inside, inside).atanh()
        lowest = torch.full_like(constant, torch.inf)
        rows = torch.arange(len(x), device=x.device)
        return cls(rows, x, objective, constant, w, torch.zeros_like(x), torch.zeros_like(x), lowest, lowest)

    def adam(self, gradient: Tensor, number: int, lr: float) -> None:
        """Adam's step `number` (from 1) on `w`."""
        self.mean, self.square = 0.9 * self.mean + 0.1 * gradient, 0.999 * self.square + 0.001 * gradient**2
        mean, square = self.mean / (1 - 0.9**number), self.square / (1 - 0.999**number)
        self.w = self.w - lr * mean / (square.sqrt() + 1e-8)

    def select(self, keep: Tensor) -> _Descent:
        return _Descent(
            self.rows[keep], self.x[keep], self.objective.select(keep), self.constant[keep], self.w[keep],
            self.mean[keep], self.square[keep], self.lowest[keep], self.lowest_before[keep],
        )  # fmt: skip


def _middle_and_half(threat: Threat) -> tuple[float, float]:
    """The middle of the range and half its width: x = middle + half · tanh(w)."""
    return (threat.low + threat.high) / 2, (threat.high - threat.low) / 2
