"""What the one-step attacks share: the direction of the step, and the step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from inoculate.attacks.base import carry_out, round_towards
from inoculate.attacks.gradients import value_and_input_grad
from inoculate.attacks.losses import Objective
from inoculate.core.threat import Norm, Threat, keep_outside, project, steepest_direction, step_along
from inoculate.models.acceleration.fast import full_precision


def one_step_direction(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    objective: Callable[[Tensor, Tensor], Objective],
    eot: int = 1,
) -> Tensor:
    """The direction (B×C×H×W) that raises `objective(x, y)` most at the clean images; 0 where the gradient is 0.

    Of a random model it is that of the mean over `eot` gradients.

    In fp32 on a `fast` copy too: no later step corrects a sign that bf16 got wrong.
    """

    def craft(x: Tensor, y: Tensor) -> Tensor:
        return steepest_direction(value_and_input_grad(model, x, objective(x, y), eot=eot).gradient, norm)

    with full_precision(model):
        return carry_out(model, x, y, None, craft)


def take_step(x: Tensor, direction: Tensor, threat: Threat) -> Tensor:
    """One step of length eps from the images along a `direction`, projected; in the dtype of `x`.

    Under a mask the direction is the steepest one of the pixels that may change.
    """
    exact = x.detach() if x.dtype in (torch.float32, torch.float64) else x.detach().float()
    direction = direction.to(exact)
    if threat.mask is not None:
        direction = steepest_direction(keep_outside(direction, torch.zeros_like(exact), threat), threat.norm)
    return round_towards(
        project(exact + step_along(exact, exact, direction, threat.eps, threat), exact, threat), x.detach()
    )
