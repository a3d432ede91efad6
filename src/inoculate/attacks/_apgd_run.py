"""The state of a run of Auto-PGD: one row per image that it still changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from inoculate.attacks._apgd_steps import StepRule, step_rule
from inoculate.attacks.gradients import ValueAndGrad
from inoculate.attacks.losses import LOSSES, Objective
from inoculate.attacks.success import BestAdversarial
from inoculate.core.threat import Threat, per_sample, project, steepest_direction, step_along


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
class Run:
    """The images that a run still changes (`rows` of its batch) and what belongs to them."""

    rows: Tensor
    x: Tensor
    ball: Threat
    objective: Objective
    sought: Tensor | None  # the only class that counts
    current: Point
    last_images: Tensor  # one step before
    best: Point
    best_values: Tensor
    began: Tensor  # where it began, and the highest it reached, of an objective that is 0 at the boundary
    reached: Tensor
    step: StepRule
    adversarial: BestAdversarial

    @classmethod
    def begin(
        cls, x: Tensor, objective: Objective, sought: Tensor | None, start: Tensor, first: ValueAndGrad, threat: Threat
    ) -> Run:
        point, values = Point(start, first.gradient), first.values
        adversarial = BestAdversarial.empty(start)
        adversarial.update(start, first, objective.y, sought)
        rows, step = torch.arange(len(x), device=x.device), step_rule(threat, values, start - x)
        began = towards_boundary(objective, first)
        return cls(rows, x, threat, objective, sought, point, start, point, values, began, began, step, adversarial)

    def restarted(self, start: Tensor, first: ValueAndGrad, threat: Threat) -> Run:
        """A run of the same images in another ball, from `start` (B×C×H×W) with the pass `first` there."""
        return replace(Run.begin(self.x, self.objective, self.sought, start, first, threat), rows=self.rows)

    def move(self, first: bool) -> None:
        """One step; except for the `first`, the last one's direction makes a part of it."""
        images, share = self.current.images, 1.0 if first else self.step.momentum
        ahead = project(images + self.step.along(self.current.gradient, self.ball), self.x, self.ball)
        if share < 1:
            ahead = images + (ahead - images) * share + (images - self.last_images) * (1 - share)
            ahead = project(ahead, self.x, self.ball)
        self.last_images = images
        self.current = self.current._replace(images=ahead)

    def jump(self) -> None:
        """Go where a linear function with the gradient at the best point would be highest in the ball."""
        direction = steepest_direction(self.best.gradient, self.ball.norm)
        ahead = self.x + step_along(self.x, self.x, direction, self.ball.eps, self.ball)
        self.last_images = self.current.images
        self.current = self.current._replace(images=project(ahead, self.x, self.ball))

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
        """Check the step, and go back to the best point where it says so."""
        back = self.step.check(self.best_values, self.best.images - self.x, enough)
        self.current = self.current.replaced(back, self.best)

    def select(self, keep: Tensor) -> Run:
        return Run(
            self.rows[keep],
            self.x[keep],
            self.ball,
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

    @classmethod
    def nothing(cls, start: Tensor) -> Found:
        """Nothing yet for runs from the images `start`."""
        none = torch.zeros(len(start), dtype=torch.bool, device=start.device)
        return cls(start.clone(), torch.zeros(len(start), dtype=start.dtype, device=start.device), none)

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
    """The objective (B) after a pass; for a loss that is not 0 at the boundary, such as cross-entropy, the margin."""
    if objective.loss.zero_at_boundary:
        return passed.values
    return replace(objective, loss=LOSSES["margin"])(passed.logits)
