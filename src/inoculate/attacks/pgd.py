"""Projected gradient descent with random starts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks.ascent import Steps, ascend
from inoculate.attacks.base import carry_out
from inoculate.attacks.losses import LossLike, Objective, get_loss, mean_logits
from inoculate.attacks.success import is_adversarial
from inoculate.attacks.targets import Target, build_objective, check_target
from inoculate.core.modes import frozen
from inoculate.core.options import require_bool, require_count, require_positive
from inoculate.core.rng import Draws
from inoculate.core.threat import Threat, keep_outside, per_sample, project, sample
from inoculate.models.acceleration.fast import original


@dataclass(frozen=True)
class PGD:
    """Steps up the loss from a random point of the ball, the worst restart kept for each image.

    For images B×C×H×W in the threat's range, in every norm. An adversarial restart is worse than one that is not;
    between equals the loss decides. Within a restart the last iterate counts.

    Options:
        steps: number of steps.
        step: their length, relative to eps.
        restarts: number of random starts.
        target: as in `OneStepTarget`: descend the loss of that class instead; None for untargeted.
        loss: as in `FGSM`.
        early_stop: stop changing an image as soon as it is adversarial.
        eot: gradients averaged per step, for a random model; above 1 there is no early stop, and restarts are compared
            over as many passes.

    Raises `InputError` for an option out of its range, images outside theirs, or a model that is not differentiable.
    Source: Madry et al. 2018, section 2.1.
    """

    steps: int = 10
    step: float = 0.25
    restarts: int = 1
    target: Target = None
    loss: LossLike = "cross_entropy"
    early_stop: bool = False
    eot: int = 1

    def __post_init__(self) -> None:
        require_count(steps=self.steps, restarts=self.restarts, eot=self.eot)
        require_positive(step=self.step)
        check_target(self.target)
        get_loss(self.loss)
        require_bool(early_stop=self.early_stop)

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        generator: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """The adversarial images; `start` (like `x`) replaces the first random start, projected."""
        steps = Steps(self.steps, self.step, self.early_stop, eot=self.eot)

        def craft(x: Tensor, y: Tensor) -> Tensor:
            objective = build_objective(self.loss, model, x, y, threat, self.target, generator)
            draws = Draws(x, generator)
            if start is None:
                first = sample(x, threat, draws)
            else:
                first = project(keep_outside(start.detach().to(x), x, threat), x, threat)
            worst = ascend(model, x, objective, threat, first, steps)
            for _ in range(1, self.restarts):
                other = ascend(model, x, objective, threat, sample(x, threat, draws), steps)
                worst = torch.where(per_sample(_is_worse(model, other, worst, objective, self.eot), x), other, worst)
            return worst

        return carry_out(model, x, y, threat, craft)

    def with_early_stop(self) -> PGD:
        """The same attack, which stops early."""
        return replace(self, early_stop=True)

    def without_early_stop(self) -> PGD:
        """The same attack, which spends all its steps on every image."""
        return replace(self, early_stop=False)

    def shortened(self) -> PGD:
        """The same attack with two steps."""
        return replace(self, steps=2)


def _is_worse(model: nn.Module, other: Tensor, x_adv: Tensor, objective: Objective, eot: int = 1) -> Tensor:
    """For which images (B, bool) `other` is worse than `x_adv`: adversarial where that is not, or of higher loss.

    The original of a `fast` copy decides, so that no restart undoes what it has confirmed.
    """
    judge = original(model)
    with frozen(judge), torch.no_grad():
        old, new = mean_logits(judge, x_adv, eot), mean_logits(judge, other, eot)
    before, now = (is_adversarial(logits, objective.y, objective.target) for logits in (old, new))
    worse: Tensor = (now & ~before) | ((now == before) & (objective(new) > objective(old)))
    return worse
