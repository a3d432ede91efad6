"""The state of a run of Auto-PGD: one row per image that it still changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from inoculate.attacks.gradients import ValueAndGrad
from inoculate.attacks.losses import LOSSES, Objective
from inoculate.attacks.success import BestAdversarial
from inoculate.core.threat import Threat, per_sample, project, steepest_direction


class Point(NamedTuple):
    """Images and the gradient of the objective at them."""

    images: Tensor
    gradient: Tensor

    def select(self, rows: Tensor) -> Point:
        return Point(self.images[rows], self.gradient[rows])

    def replaced(self, which: Tensor, other: Point) -> Point:
        """`other` where `which` (B, bool), else this."""
        mask = per_sample(which, self.images)
        return Point(torch.where(mask, other.images, self.images), torch.where(mask, other.gradient, self.gradient))


@dataclass
class StepSize:
    """The step size of each image, and the history that decides about halving it (section 3.1, conditions 1 and 2)."""

    size: Tensor  # B×1×1×1
    rises: Tensor  # steps since the last check that raised the objective
    previous: Tensor  # the objective at the last step
    best_at_check: Tensor  # the best objective at the last check
    halved_at_check: Tensor  # whether the size was halved there

    @classmethod
    def begin(cls, size: float, values: Tensor, x: Tensor) -> StepSize:
        sizes = per_sample(torch.full_like(values, size), x)
        return cls(sizes, torch.zeros_like(values), values, values, torch.ones_like(values, dtype=torch.bool))

    def update(self, values: Tensor) -> None:
        self.rises = self.rises + (values > self.previous)
        self.previous = values

    def check(self, best: Tensor, enough: float) -> Tensor:
        """Halve the size where at most `enough` steps rose, or nothing improved. Returns where (B, bool)."""
        halve = (self.rises <= enough) | (~self.halved_at_check & (self.best_at_check >= best))
        self.halved_at_check, self.best_at_check, self.rises = halve, best, torch.zeros_like(self.rises)
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
class Run:
    """The images that a run still changes (`rows` of its batch) and what belongs to them."""

    rows: Tensor
    x: Tensor
    objective: Objective
    sought: Tensor | None  # the only class that counts
    current: Point
    last_images: Tensor  # one step before
    best: Point
    best_values: Tensor
    began: Tensor  # where it began, and the highest it reached, of an objective that is 0 at the boundary
    reached: Tensor
    step: StepSize
    adversarial: BestAdversarial

    @classmethod
    def begin(
        cls, x: Tensor, objective: Objective, sought: Tensor | None, start: Tensor, first: ValueAndGrad, size: float
    ) -> Run:
        point, values = Point(start, first.gradient), first.values
        adversarial = BestAdversarial.empty(start)
        adversarial.update(start, first, objective.y, sought)
        rows, step = torch.arange(len(x), device=x.device), StepSize.begin(size, values, x)
        began = towards_boundary(objective, first)
        return cls(rows, x, objective, sought, point, start, point, values, began, began, step, adversarial)

    def move(self, threat: Threat, share: float) -> None:
        """One step, of which the last one's direction makes 1 − `share`."""
        images = self.current.images
        direction = steepest_direction(self.current.gradient, threat.norm)
        ahead = project(images + self.step.size * direction, self.x, threat)
        moved = images + (ahead - images) * share + (images - self.last_images) * (1 - share)
        self.last_images = images
        self.current = self.current._replace(images=project(moved, self.x, threat))

    def update(self, passed: ValueAndGrad) -> None:
        """Take in the pass through the model at the current images."""
        self.current = self.current._replace(gradient=passed.gradient)
        self.adversarial.update(self.current.images, passed, self.objective.y, self.sought)
        self.step.update(passed.values)
        better = passed.values > self.best_values
        self.best = self.best.replaced(better, self.current)
        self.best_values = torch.where(better, passed.values, self.best_values)
        self.reached = self.reached.maximum(towards_boundary(self.objective, passed))

    def check(self, enough: float) -> None:
        """Where the step size is halved, go back to the best point."""
        self.current = self.current.replaced(self.step.check(self.best_values, enough), self.best)

    def select(self, keep: Tensor) -> Run:
        return Run(
            self.rows[keep],
            self.x[keep],
            self.objective.select(keep),
            None if self.sought is None else self.sought[keep],
            self.current.select(keep),
            self.last_images[keep],
            self.best.select(keep),
            self.best_values[keep],
            self.began[keep],
            self.reached[keep],
            self.step.select(keep),
            self.adversarial.select(keep),
        )


class Found(NamedTuple):
    """What a run returns: images, their objective (B), and which of them are adversarial (B, bool)."""

    images: Tensor
    values: Tensor
    adversarial: Tensor

    def take_adversarial(self, run: Run, model: nn.Module, images: int) -> Run:
        """Store the adversarial images met since the last call; returns the run without what is done.

        The run holds a number of `images` several times, such as once per target: one that is broken is done in all.
        """
        done = run.adversarial.confirm(model, run.objective.y, run.sought)
        if not done.any():
            return run
        rows, adversarial = run.rows[done], run.adversarial.select(done)
        self.images[rows], self.values[rows], self.adversarial[rows] = adversarial.images, adversarial.values, True
        broken = self.adversarial.view(-1, images).any(dim=0)
        return run.select(~broken[run.rows % images])

    def take_best(self, run: Run) -> None:
        """Store the best images of a run that ends without an adversarial one."""
        self.images[run.rows], self.values[run.rows] = run.best.images, run.best_values


def towards_boundary(objective: Objective, passed: ValueAndGrad) -> Tensor:
    """The objective (B) after a pass; for cross-entropy, which is not 0 at the boundary, the margin."""
    if objective.loss is LOSSES["cross_entropy"]:
        return replace(objective, loss=LOSSES["margin"])(passed.logits)
    return passed.values
