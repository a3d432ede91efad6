"""The fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inoculate.attacks.base import check_images
from inoculate.attacks.losses import LossLike, Objective, get_loss
from inoculate.attacks.one_step import one_step_direction, take_step
from inoculate.core.options import require_count
from inoculate.core.threat import Norm, Threat


@dataclass(frozen=True)
class FGSM:
    """One step of length eps up the loss of the true class.

    For images B×C×H×W in the threat's range, in every norm; in L∞ the step is eps times the gradient's sign. An image
    whose gradient is 0 comes back unchanged.

    Options:
        loss: what to maximise: `cross_entropy`, `margin`, `dlr`, or a function of your own from logits (B×K) and labels
            (B) to a number per image (B).
        eot: gradients averaged for a random model.

    Raises `InputError` for an option out of its range, images outside theirs, or a model that is not differentiable.
    Source: Goodfellow et al. 2015, section 4.
    """

    loss: LossLike = "cross_entropy"
    eot: int = 1

    def __post_init__(self) -> None:
        get_loss(self.loss)
        require_count(eot=self.eot)

    def direction(
        self, model: nn.Module, x: Tensor, y: Tensor, norm: Norm, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The direction of the step in `norm`, B×C×H×W; 0 for an image whose gradient is 0."""
        return one_step_direction(model, x, y, norm, lambda _, y: Objective(get_loss(self.loss), y), self.eot)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        check_images(x, threat)
        return take_step(x, self.direction(model, x, y, threat.norm, generator=generator), threat)
