"""What an attack raises: per-sample losses of logits (B×K), away from the true class or towards another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.core.errors import InputError


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """−log softmax of class `y`, per sample (B). In fp32 its gradient vanishes on very confident samples."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best wrong logit minus the logit of `y`, per sample (B): positive where misclassified, and never saturates."""
    wrong = logits.scatter(1, y[:, None], -torch.inf)
    return wrong.amax(dim=1) - _of(logits, y)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Margin over the spread of the largest three logits: scale does not matter (Croce and Hein 2020, equation 6).

    It needs three classes.
    """
    top = _largest(logits, 3, "the DLR loss")
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def to_cross_entropy(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """log softmax of class `target`, per sample (B)."""
    return -cross_entropy(logits, target)


def to_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The logit of `target` minus the best other one, per sample (B): positive where the target is reached."""
    return -margin(logits, target)


def target_minus_true(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The logit of `target` minus that of `y`, per sample (B), whatever the others do."""
    return _of(logits, target) - _of(logits, y)


def to_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The targeted DLR loss (Croce and Hein 2020, equation 7). It needs four classes."""
    top = _largest(logits, 4, "the targeted DLR loss")
    return target_minus_true(logits, y, target) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


class Loss(NamedTuple):
    """One loss in both its forms: `away(logits, y)` and `towards(logits, y, target)`, each raised by an attack."""

    away: Callable[[Tensor, Tensor], Tensor]
    towards: Callable[[Tensor, Tensor, Tensor], Tensor]


LOSSES = {
    "cross_entropy": Loss(cross_entropy, to_cross_entropy),
    "margin": Loss(margin, to_margin),
    "dlr": Loss(dlr, to_dlr),
}


def loss_named(name: str) -> Loss:
    """The loss of this name; raises `InputError` naming the known ones."""
    if name not in LOSSES:
        raise InputError(f"loss '{name}' is unknown: use one of {', '.join(LOSSES)}")
    return LOSSES[name]


@dataclass(frozen=True, eq=False)
class Objective:
    """What an attack raises on each image: `loss` away from its class `y` (B), or towards `target` (B) if given.

    An image that already belongs to its target class is driven away from it.
    """

    loss: Loss
    y: Tensor
    target: Tensor | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """The value per sample (B) of logits (B×K)."""
        away = self.loss.away(logits, self.y)
        if self.target is None:
            return away
        return torch.where(self.target == self.y, away, self.loss.towards(logits, self.y, self.target))

    def of(self, rows: Tensor) -> Objective:
        """The objective for some of the images."""
        return Objective(self.loss, self.y[rows], None if self.target is None else self.target[rows])


NO_GRADIENT = "no gradient reaches the images: the model is not differentiable, attack it with square, which needs none"


class Ascent(NamedTuple):
    """One pass through the model: gradient of the objective (like the images), its values (B), and the logits."""

    gradient: Tensor
    values: Tensor
    logits: Tensor


def ascent(model: nn.Module, x: Tensor, objective: Callable[[Tensor], Tensor]) -> Ascent:
    """Differentiate the per-sample `objective` of the logits with respect to the images alone.

    Pixels at which the gradient is not a number count as flat: one of them would spoil every step of its image.
    """
    gradient, values, logits = slope(model, x, objective)
    return Ascent(finite(gradient), values, logits)


def slope(model: nn.Module, x: Tensor, objective: Callable[[Tensor], Tensor]) -> Ascent:
    """The same, with the gradient as it comes."""
    x = x.detach().requires_grad_()
    logits = in_full(model(x))
    values = objective(logits)
    check_differentiable(values)
    (gradient,) = torch.autograd.grad(values.sum(), x, allow_unused=True)
    if gradient is None:
        raise InputError(NO_GRADIENT)
    return Ascent(gradient, values.detach(), logits.detach())


def finite(gradient: Tensor) -> Tensor:
    """The gradient with 0 where it is not a number, or infinite."""
    return gradient.nan_to_num(0.0, 0.0, 0.0)


def check_differentiable(values: Tensor) -> None:
    """Raise `InputError` unless a gradient of `values` can be taken."""
    if not values.requires_grad:
        raise InputError(NO_GRADIENT)


def in_full(logits: Tensor) -> Tensor:
    """Half-precision logits as fp32: a loss of them would lose its last digits."""
    return logits if logits.dtype is torch.float64 else logits.float()


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


def _largest(logits: Tensor, count: int, what: str) -> Tensor:
    if logits.shape[1] < count:
        raise InputError(
            f"{what} needs {count} classes and the model has {logits.shape[1]}: use cross_entropy or margin"
        )
    return logits.topk(count, dim=1).values
