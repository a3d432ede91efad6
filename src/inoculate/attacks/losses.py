"""What an attack maximises: per-sample losses of logits (B×K), away from the true class or towards another."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.core.calls import call, single_output
from inoculate.core.errors import InputError, one_line

LossFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """−log softmax of class `y`, per sample (B). In fp32 its gradient vanishes on very confident samples."""
    return F.cross_entropy(logits, y, reduction="none")


def rescaled_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of logits divided by the gap between the largest two (taken as a constant), per sample (B).

    Whatever the scale of the logits, its gradient neither vanishes nor spreads evenly over the wrong classes (MIFPE,
    Yu and Xu 2023). A gap below a thousandth of the spread of all logits counts as that.
    """
    fixed = logits.detach()
    top = fixed.topk(2, dim=1).values
    highest, second = top[:, :1], top[:, 1:]
    spread = (highest - fixed.amin(dim=1, keepdim=True)).clamp_min(torch.finfo(logits.dtype).tiny)
    return cross_entropy((logits - highest) / torch.maximum(highest - second, spread / 1000), y)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best wrong logit minus the logit of `y`, per sample (B): positive where misclassified, and never saturates."""
    wrong = logits.scatter(1, y[:, None], -torch.inf)
    return wrong.amax(dim=1) - _logit_of(logits, y)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Margin over the spread of the largest three logits: scale does not matter (Croce and Hein 2020, equation 6).

    It needs three classes.
    """
    top = _largest(logits, 3, "the DLR loss")
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_cross_entropy(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """log softmax of class `target`, per sample (B)."""
    return -cross_entropy(logits, target)


def targeted_rescaled_cross_entropy(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """log softmax of class `target`, with logits rescaled as in `rescaled_cross_entropy`, per sample (B)."""
    return -rescaled_cross_entropy(logits, target)


def targeted_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The logit of `target` minus the best other one, per sample (B): positive where the target is reached."""
    return -margin(logits, target)


def target_minus_true(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The logit of `target` minus that of `y`, per sample (B), whatever the others do."""
    return _logit_of(logits, target) - _logit_of(logits, y)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The targeted DLR loss (Croce and Hein 2020, equation 7). It needs four classes."""
    top = _largest(logits, 4, "the targeted DLR loss")
    return target_minus_true(logits, y, target) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


class Loss(NamedTuple):
    """One loss in two forms: `untargeted(logits, y)` and `targeted(logits, y, target)`; attacks maximise either.

    `zero_at_boundary`: whether it is 0 where the prediction changes, so that its value says how far the boundary is.
    """

    untargeted: LossFunction
    targeted: Callable[[Tensor, Tensor, Tensor], Tensor]
    zero_at_boundary: bool = False


LossLike: TypeAlias = str | LossFunction | Loss
"""The name of a loss, or one of your own: a function of logits (B×K) and labels (B) that gives a number per image (B)
for attacks to maximise. With a target class an attack descends it for that class. A `Loss` has a targeted form of its
own."""

LOSSES = {
    "cross_entropy": Loss(cross_entropy, targeted_cross_entropy),
    "rescaled_cross_entropy": Loss(rescaled_cross_entropy, targeted_rescaled_cross_entropy),
    "margin": Loss(margin, targeted_margin, zero_at_boundary=True),
    "dlr": Loss(dlr, targeted_dlr, zero_at_boundary=True),
}


def get_loss(loss: LossLike) -> Loss:
    """The loss of this name, or one's own in both forms; raises `InputError` for what is none, naming the known ones.

    One's own raises `InputError` where it fails, or does not give a number per image through which gradients pass.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise InputError(f"loss '{loss}' is unknown: use one of {', '.join(LOSSES)}")
        return LOSSES[loss]
    if not callable(loss) or isinstance(loss, type):
        raise InputError(f"loss {loss!r} is no loss: give {', '.join(LOSSES)}, or a function (logits, labels) -> (B,)")
    known = next((each for each in LOSSES.values() if each.untargeted is loss), None)
    return known or _own(loss)


def name_of_loss(loss: LossLike) -> str:
    """The name of a loss in descriptions of attacks."""
    if isinstance(loss, str):
        return loss
    function = loss.untargeted if isinstance(loss, Loss) else loss
    return str(getattr(function, "__name__", type(function).__name__))


def _own(function: LossFunction) -> Loss:
    """Both forms of a loss of the user's own, which is checked at each call."""

    def checked(logits: Tensor, y: Tensor) -> Tensor:
        name = name_of_loss(function)
        try:
            values = function(logits, y)
        except InputError:
            raise
        except Exception as error:  # whatever the user's code raises
            shape = "×".join(map(str, logits.shape))
            raise InputError(f"the loss {name} does not take {shape} logits and labels ({one_line(error)})") from error
        if not isinstance(values, Tensor) or values.shape != y.shape:
            found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise InputError(
                f"the loss {name} gives {found} for {len(y)} images: it must give one number per image, without a mean"
            )
        if logits.requires_grad and not values.requires_grad:
            raise InputError(
                f"no gradient passes through the loss {name}: it must be computed from the logits by torch"
            )
        return values.to(logits.dtype)

    return Loss(checked, lambda logits, y, target: -checked(logits, target))


@dataclass(frozen=True, eq=False)
class Objective:
    """What an attack raises on each image: `loss` away from its class `y` (B), or towards `target` (B) if given.

    An image that already belongs to its target class is driven away from it. `changeable` (B×c×H×W, bool, from
    `Threat.changeable`) are the pixels by which it is raised; None for all.
    """

    loss: Loss
    y: Tensor
    target: Tensor | None = None
    changeable: Tensor | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """The value per sample (B) of logits (B×K)."""
        away = self.loss.untargeted(logits, self.y)
        if self.target is None:
            return away
        return torch.where(self.target == self.y, away, self.loss.targeted(logits, self.y, self.target))

    def select(self, rows: Tensor) -> Objective:
        """The objective for some of the images."""
        target, changeable = (None if each is None else each[rows] for each in (self.target, self.changeable))
        return Objective(self.loss, self.y[rows], target, changeable)

    def inside(self, values: Tensor, outside: Tensor | float = 0.0) -> Tensor:
        """`values` (like the images) where these pixels may change, `outside` elsewhere."""
        return values if self.changeable is None else torch.where(self.changeable, values, outside)


def logits_fp32(model: nn.Module, x: Tensor) -> Tensor:
    """The logits (B×K) of a model; those in half precision as fp32, because a loss of them would lose its last digits.

    Raises `InputError` where the model does not take the images, or does not return logits of two classes or more.
    """
    logits = call(model, x)
    if logits.ndim == 1 or logits.shape[1] == 1:
        raise single_output(logits)
    return logits if logits.dtype is torch.float64 else logits.float()


def mean_logits(model: nn.Module, x: Tensor, passes: int) -> Tensor:
    """The logits of a model (B×K); of several passes, the logarithm of the mean of the probabilities."""
    if passes == 1:
        return logits_fp32(model, x)
    each = torch.stack([logits_fp32(model, x).log_softmax(dim=1) for _ in range(passes)])
    return each.logsumexp(dim=0) - math.log(passes)


def _logit_of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


def _largest(logits: Tensor, count: int, what: str) -> Tensor:
    if logits.shape[1] < count:
        raise InputError(
            f"{what} needs {count} classes and the model has {logits.shape[1]}: use cross_entropy or margin"
        )
    return logits.topk(count, dim=1).values
