"""The inner loop of the multi-step gradient attacks: projected steepest ascent, for every norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inoculate.attacks import success
from inoculate.attacks.gradients import ValueAndGrad, value_and_input_grad
from inoculate.attacks.losses import Objective
from inoculate.attacks.success import BestAdversarial
from inoculate.core.threat import Threat, per_sample, project, steepest_direction, step_along


@dataclass(frozen=True)
class Steps:
    """`count` steps of length `size` · eps.

    `early_stop` stops changing an image once it is adversarial. `decay` > 0 adds up L1-normalised gradients with this
    momentum. `smooth` (gradient -> gradient) is applied before the momentum. The model sees `view(images)`. Gradients
    are means over `eot` passes. With a view or several passes there is no early stop.
    """

    count: int
    size: float
    early_stop: bool = False
    decay: float = 0.0
    smooth: Callable[[Tensor], Tensor] | None = None
    view: Callable[[Tensor], Tensor] | None = None
    eot: int = 1


def ascend(model: nn.Module, x: Tensor, objective: Objective, threat: Threat, start: Tensor, steps: Steps) -> Tensor:
    """Raise `objective` from the images `start`, projecting each step into the ball around `x` and the range.

    Returns the last iterate, B×C×H×W; with `early_stop` an adversarial iterate where one was found. The caller holds
    `frozen(model)`.
    """
    seen: nn.Module = model if steps.view is None else _Viewed(model, steps.view)
    result, stops = start, steps.early_stop and steps.view is None and steps.eot == 1
    run = _Run(
        torch.arange(len(x), device=x.device), x, start, torch.zeros_like(x), objective, BestAdversarial.empty(start)
    )
    for number in range(steps.count):
        passed = value_and_input_grad(seen, run.x_adv, run.objective, eot=steps.eot)
        if stops and number:
            objective = run.objective
            run.best.update(run.x_adv, passed, objective.y, objective.target)
            if success.should_check_success(number, x.device):
                done = run.best.confirm(model, objective.y, objective.target)
                if done.any():
                    result = result.index_copy(0, run.rows, run.best.images)
                    run, passed = run.select(~done), ValueAndGrad(*(part[~done] for part in passed))
                    if not len(run.rows):
                        return result
        gradient = passed.gradient if steps.smooth is None else run.objective.inside(steps.smooth(passed.gradient))
        if steps.decay:
            gradient = run.velocity = accumulate(run.velocity, gradient, steps.decay)
        direction = steepest_direction(gradient, threat.norm)
        ahead = run.x_adv + step_along(run.x_adv, run.x, direction, steps.size * threat.eps, threat)
        run.x_adv = project(ahead, run.x, threat)
    if stops:
        done = run.best.confirm(model, run.objective.y, run.objective.target)
        run.x_adv = torch.where(per_sample(done, run.x), run.best.images, run.x_adv)
    return run.x_adv if len(run.rows) == len(result) else result.index_copy(0, run.rows, run.x_adv)


def accumulate(velocity: Tensor, gradient: Tensor, decay: float) -> Tensor:
    """Momentum over gradients of unit L1 norm: `decay` · velocity + g / ‖g‖₁ (Dong et al. 2018, equation 6)."""
    return decay * velocity + gradient / per_sample(gradient.flatten(1).abs().sum(1), gradient).clamp_min(1e-30)


@dataclass
class _Run:
    """The images that still change (`rows` of the batch) and what belongs to them."""

    rows: Tensor
    x: Tensor
    x_adv: Tensor
    velocity: Tensor
    objective: Objective
    best: BestAdversarial

    def select(self, keep: Tensor) -> _Run:
        return _Run(
            self.rows[keep],
            self.x[keep],
            self.x_adv[keep],
            self.velocity[keep],
            self.objective.select(keep),
            self.best.select(keep),
        )


class _Viewed(nn.Module):
    """A model that sees `view(images)`."""

    def __init__(self, model: nn.Module, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.view = view

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(self.view(x))
        return logits
