"""The steps of Auto-PGD: their direction and size, and the checks that change them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from inoculate.core.threat import Threat, per_sample, steepest_direction

MOMENTUM = 0.75  # weight of the new step against the last one (the paper's α)


class StepRule(Protocol):
    """The step of each image (B), and the history that decides about it."""

    @property
    def momentum(self) -> float:
        """The weight of a step against the one before."""
        ...

    def along(self, gradient: Tensor, threat: Threat) -> Tensor:
        """The step along a gradient, both B×C×H×W; the caller projects."""
        ...

    def update(self, values: Tensor) -> None:
        """Take in the objective (B) after a step."""
        ...

    def check(self, best_values: Tensor, best_delta: Tensor, enough: float) -> Tensor:
        """Change the step where it stopped helping. Returns which images (B, bool) go back to their best point.

        `best_values` (B) and `best_delta` (B×C×H×W) are the objective and the perturbation there; `enough` is the
        number of steps since the last check that must have raised the objective.
        """
        ...

    def select(self, rows: Tensor) -> Self: ...


def step_rule(threat: Threat, values: Tensor, delta: Tensor) -> StepRule:
    """The rule of a norm, at the start of a run with these values (B) and perturbations (B×C×H×W)."""
    return SparseStep.begin(threat.eps, delta) if threat.norm == "l1" else StepSize.begin(2 * threat.eps, values, delta)


def checkpoints(steps: int, threat: Threat) -> dict[int, int]:
    """The steps after which the rule is checked, each with the steps since the last check.

    L∞ and L2: Croce and Hein 2020, section 3.1. L1: every 4 % of the steps.
    """
    if threat.norm == "l1":
        period = max(int(0.04 * steps), 1)
        return dict.fromkeys(range(period, steps + 1, period), period)
    checkpoints, period, at = {}, max(int(0.22 * steps), 1), 0
    while (at := at + period) <= steps:
        checkpoints[at] = period
        period = max(period - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    return checkpoints


def radius_schedule(threat: Threat, steps: int) -> list[tuple[Threat, int]]:
    """The balls of a run with the steps in each: for L1 those of 3, 2 and 1 times eps (30, 30 and 40 % of the steps).

    Each begins at the best point of the one before, projected (Croce and Hein 2021, section 4.2).
    """
    part = -(-3 * steps // 10)
    if threat.norm != "l1" or steps <= 2 * part:
        return [(threat, steps)]
    wider = [(replace(threat, eps=times * threat.eps), part) for times in (3, 2)]
    return [*wider, (threat, steps - 2 * part)]


@dataclass
class StepSize:
    """L∞ and L2: the steepest direction, with a size that is halved by conditions 1 and 2 of section 3.1."""

    size: Tensor  # B×1×1×1
    rises: Tensor  # steps since the last check that raised the objective
    previous: Tensor  # the objective at the last step, at first 0
    best_at_check: Tensor  # the best objective at the last check
    halved_at_check: Tensor  # whether the size was halved there

    @classmethod
    def begin(cls, size: float, values: Tensor, x: Tensor) -> StepSize:
        sizes, none = per_sample(torch.full_like(values, size), x), torch.zeros_like(values)
        # As in the reference implementation, the first step counts as a rise where the objective is above 0.
        return cls(sizes, none, none, values, torch.ones_like(values, dtype=torch.bool))

    @property
    def momentum(self) -> float:
        return MOMENTUM

    def along(self, gradient: Tensor, threat: Threat) -> Tensor:
        return self.size * steepest_direction(gradient, threat.norm)

    def update(self, values: Tensor) -> None:
        self.rises = self.rises + (values > self.previous)
        self.previous = values

    def check(self, best_values: Tensor, best_delta: Tensor, enough: float) -> Tensor:
        """Halve the size where at most `enough` steps rose, or nothing improved."""
        halve = (self.rises <= enough) | (~self.halved_at_check & (self.best_at_check >= best_values))
        self.halved_at_check, self.best_at_check, self.rises = halve, best_values, torch.zeros_like(self.rises)
        self.size = torch.where(per_sample(halve, self.size), self.size / 2, self.size)
        return halve

    def select(self, rows: Tensor) -> StepSize:
        return StepSize(
            self.size[rows],
            self.rises[rows],
            self.previous[rows],
            self.best_at_check[rows],
            self.halved_at_check[rows],
        )


@dataclass
class SparseStep:
    """L1: equal steps of the pixels with the largest gradient (Croce and Hein 2021, algorithm 1).

    They are two thirds as many as the best perturbation has changed. The size begins at eps. Where a check finds this
    perturbation sparser than the last one did, by 5 %, it begins anew; else it shrinks, down to a tenth.
    """

    size: Tensor  # B×1×1×1
    changed: Tensor  # pixels that the best perturbation had changed at the last check
    largest: float

    @classmethod
    def begin(cls, eps: float, delta: Tensor) -> SparseStep:
        return cls(per_sample(delta.new_full((len(delta),), eps), delta), _changed_pixels(delta), eps)

    @property
    def momentum(self) -> float:
        return 1.0

    def along(self, gradient: Tensor, threat: Threat) -> Tensor:
        flat = gradient.flatten(1)
        count = ((2 * self.changed + 2) // 3).clamp(1, flat.shape[1])
        least = flat.abs().sort(dim=1, descending=True).values.gather(1, count[:, None] - 1)
        signs = flat.sign() * (flat.abs() >= least)
        return self.size * (signs / signs.abs().sum(dim=1, keepdim=True).clamp_min(1)).view_as(gradient)

    def update(self, values: Tensor) -> None:
        pass

    def check(self, best_values: Tensor, best_delta: Tensor, enough: float) -> Tensor:
        """Begin anew where the best perturbation is sparser than before, else shrink the step."""
        changed = _changed_pixels(best_delta)
        sparser = changed < 0.95 * self.changed
        shrunk = (self.size / 1.5).clamp_min(self.largest / 10)
        self.size = torch.where(per_sample(sparser, self.size), self.largest, shrunk)
        self.changed = changed
        return sparser

    def select(self, rows: Tensor) -> SparseStep:
        return SparseStep(self.size[rows], self.changed[rows], self.largest)


def _changed_pixels(delta: Tensor) -> Tensor:
    return (delta != 0).flatten(1).sum(dim=1)
