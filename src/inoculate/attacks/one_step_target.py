"""The one-step attack towards a target class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inoculate.attacks.base import check_images
from inoculate.attacks.losses import LossLike, Objective, get_loss
from inoculate.attacks.one_step import one_step_direction, take_step
from inoculate.attacks.targets import Target, check_target, resolve_targets
from inoculate.core.options import require_count
from inoculate.core.threat import Norm, Threat


@dataclass(frozen=True)
class OneStepTarget:
    """One step of length eps down the loss of another class.

    For images B×C×H×W in the threat's range, in every norm. An image whose own class is the target is attacked
    untargeted.

    Options:
        target: `least_likely` (the model's lowest logit), `second` (the wrong class of the highest logit), `random`
            (any wrong class), a class index, or a tensor with a class index per image (B).
        loss: as in `FGSM`, in its targeted form: one of your own is descended for the target.
        eot: gradients averaged for a random model.

    Raises `InputError` for an unknown option value, a class that the model does not have, images outside the range, or
    a model that is not differentiable.
    Source: Kurakin et al. 2017, section 3.2.
    """

    target: Target = "least_likely"
    loss: LossLike = "cross_entropy"
    eot: int = 1

    def __post_init__(self) -> None:
        check_target(self.target)
        get_loss(self.loss)
        require_count(eot=self.eot)

    def direction(
        self, model: nn.Module, x: Tensor, y: Tensor, norm: Norm, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The direction of the step in `norm`, B×C×H×W; 0 for an image whose gradient is 0."""

        def objective(x: Tensor, y: Tensor) -> Objective:
            return Objective(get_loss(self.loss), y, resolve_targets(model, x, y, self.target, generator))

        return one_step_direction(model, x, y, norm, objective, self.eot)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        check_images(x, threat)
        return take_step(x, self.direction(model, x, y, threat.norm, generator=generator), threat)
