"""The gradient of an objective with respect to the images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from inoculate.attacks.losses import Objective, get_loss, logits_fp32
from inoculate.core.errors import InputError, one_line

NO_GRADIENT = (
    "no gradient reaches the images: the model is not differentiable (a detach, a no_grad, numpy or a cast to integers "
    "in its forward), attack it with square, which needs none"
)


class ValueAndGrad(NamedTuple):
    """One pass through the model: the objective's values (B), its gradient (like the images), and the logits (B×K)."""

    values: Tensor
    gradient: Tensor
    logits: Tensor


def value_and_input_grad(
    model: nn.Module, x: Tensor, objective: Objective, *, raw: bool = False, eot: int = 1
) -> ValueAndGrad:
    """Differentiate the per-sample `objective` of the logits with respect to the images, not the parameters.

    The gradient is 0 outside the objective's pixels. Pixels at which it is not finite get 0, because one of them would
    spoil every step of its image; `raw` keeps them. Of a random model everything is the mean over `eot` passes
    (expectation over transformation, Athalye et al. 2018b). Raises `InputError` if the model is not differentiable.
    """
    if eot > 1:
        total = value_and_input_grad(model, x, objective, raw=raw)
        for _ in range(1, eot):
            total = ValueAndGrad(*map(torch.add, total, value_and_input_grad(model, x, objective, raw=raw)))
        return ValueAndGrad(*(part / eot for part in total))
    x = x.detach().requires_grad_()
    logits = logits_fp32(model, x)
    values = objective(logits)
    gradient = objective.inside(input_gradient(values.sum(), x))
    return ValueAndGrad(values.detach(), gradient if raw else zero_nonfinite(gradient), logits.detach())


def lacks_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which images (B, bool) have a gradient of cross-entropy that is 0 everywhere, or not a number somewhere."""
    gradient = value_and_input_grad(model, x, Objective(get_loss("cross_entropy"), y), raw=True).gradient.flatten(1)
    return (gradient == 0).all(dim=1) | ~gradient.isfinite().all(dim=1)


def input_gradient(value: Tensor, x: Tensor, *, retain_graph: bool = False) -> Tensor:
    """The gradient of a number in the images; raises `InputError` if the model is not differentiable."""
    check_differentiable(value)
    try:
        (gradient,) = torch.autograd.grad(value, x, allow_unused=True, retain_graph=retain_graph)
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:  # an edit in place of what the gradient needs, a checkpoint of the old kind
        raise InputError(
            f"the gradient of the model cannot be computed ({one_line(error)}): mend its forward, or attack it with "
            "square, which needs none"
        ) from error
    if gradient is None:
        raise InputError(NO_GRADIENT)
    return gradient


def zero_nonfinite(gradient: Tensor) -> Tensor:
    """The gradient with 0 where it is NaN or infinite."""
    return gradient.nan_to_num(0.0, 0.0, 0.0)


def check_differentiable(values: Tensor) -> None:
    """Raise `InputError` unless a gradient of `values` can be taken."""
    if not values.requires_grad:
        raise InputError(NO_GRADIENT)
