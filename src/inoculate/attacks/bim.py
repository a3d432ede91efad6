"""The basic iterative method."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks.ascent import Steps, ascend
from inoculate.attacks.base import carry_out
from inoculate.attacks.losses import LossLike, get_loss
from inoculate.attacks.targets import Target, build_objective, check_target
from inoculate.core.options import require_bool, require_count, require_positive
from inoculate.core.threat import Threat


@dataclass(frozen=True)
class BIM:
    """Small steps up the loss from the clean image, each projected into ball and range; the last iterate counts.

    For images B×C×H×W in the threat's range, in every norm.

    Options:
        steps: number of steps.
        step: their length, relative to eps.
        target: as in `OneStepTarget`: descend the loss of that class instead; None for untargeted.
        loss: as in `FGSM`.
        early_stop: stop changing an image as soon as it is adversarial.
        eot: gradients averaged per step, for a random model; above 1 there is no early stop.

    Raises `InputError` for an option out of its range, images outside theirs, or a model that is not differentiable.
    Source: Kurakin et al. 2017, section 3.3.
    """

    steps: int = 10
    step: float = 0.25
    target: Target = None
    loss: LossLike = "cross_entropy"
    early_stop: bool = False
    eot: int = 1

    def __post_init__(self) -> None:
        require_count(steps=self.steps, eot=self.eot)
        require_positive(step=self.step)
        check_target(self.target)
        get_loss(self.loss)
        require_bool(early_stop=self.early_stop)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        def craft(x: Tensor, y: Tensor) -> Tensor:
            objective = build_objective(self.loss, model, x, y, threat, self.target, generator)
            return ascend(model, x, objective, threat, x, Steps(self.steps, self.step, self.early_stop, eot=self.eot))

        return carry_out(model, x, y, threat, craft)

    def with_early_stop(self) -> BIM:
        """The same attack, which stops early."""
        return replace(self, early_stop=True)

    def without_early_stop(self) -> BIM:
        """The same attack, which spends all its steps on every image."""
        return replace(self, early_stop=False)

    def shortened(self) -> BIM:
        """The same attack with two steps."""
        return replace(self, steps=2)
