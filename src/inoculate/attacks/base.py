"""What every attack shares: the call, its checks, targets, and the question whether an image is broken."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from inoculate.attacks.losses import Ascent, loss_named
from inoculate.core.errors import InputError
from inoculate.core.modes import dtype_for, frozen
from inoculate.core.rng import Draws
from inoculate.core.threat import Norm, Threat, per_sample
from inoculate.models.acceleration.folding import original
from inoculate.models.acceleration.small_maps import inference_context

Target = str | int | None
MOST = 16  # times the caller's batch


class Attack(Protocol):
    """Anything that turns images into adversarial ones: `(model, x, y, threat, *, generator) -> x_adv`.

    `model` maps B×C×H×W images in the threat's range to B×K logits; `x_adv` has the shape and dtype of `x`. The
    model's state and the global random state are left as they were.
    """

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor: ...


@runtime_checkable
class OneStep(Protocol):
    """An attack whose direction does not depend on eps: `x_adv = project(x + eps · direction)`."""

    def direction(
        self, model: nn.Module, x: Tensor, y: Tensor, norm: Norm, *, generator: torch.Generator | None = None
    ) -> Tensor: ...


@runtime_checkable
class MinimumNorm(Protocol):
    """An attack that looks for the nearest misclassified image, whatever eps is: one run serves every eps."""

    def closest(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor: ...


def carry_out(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat | None, craft: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Run `craft(x, y) -> x_adv` on a frozen model; the images are checked against the threat's range if one is given.

    The work is done in the model's dtype, but at least in fp32; the result has that of `x`, rounded towards `x`.
    """
    if threat is not None:
        check_images(x, threat)
    if not len(x):
        return x.detach().clone()
    judge = original(model)
    with frozen(model), nullcontext() if judge is model else inference_context(judge):
        return rounded(craft(_own(x).to(dtype_for(model)), _own(y)).detach(), _own(x))


def rounded(x_adv: Tensor, x: Tensor) -> Tensor:
    """`x_adv` in the dtype of `x`; where rounding would take a pixel further from `x`, the next number towards it."""
    if x_adv.dtype is x.dtype:
        return x_adv
    near, exact = x_adv.to(x.dtype), x_adv.double()
    further = (near.double() - x.double()).abs() > (exact - x.double()).abs()
    return torch.where(further, torch.nextafter(near, x), near)


def arrived(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Which images (B, bool) an attack has where it wants them: misclassified, or as their `target` (B) if given.

    An image that belongs to its target class as it is has arrived when it is misclassified.
    """
    predicted = logits.argmax(dim=1)
    wrong: Tensor = predicted != y
    return wrong if target is None else torch.where(target == y, wrong, predicted == target)


def fooled(model: nn.Module, x_adv: Tensor, logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Which images (B, bool) have arrived, given the model's `logits` of them.

    Where the model is a `fast` copy its opinion counts for nothing alone: the original confirms each one.
    """
    return confirmed(model, x_adv, arrived(logits, y, target), y, target)


def confirmed(model: nn.Module, x_adv: Tensor, there: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Which of the images that have arrived (`there`: B, bool) in the eyes of `model` have so in the original's."""
    judge = original(model)
    if judge is model or not there.any():
        return there
    rows = there.nonzero().squeeze(1)
    with frozen(judge), torch.no_grad():
        sure = arrived(judge(x_adv[rows]), y[rows], None if target is None else target[rows])
    return there.index_copy(0, rows, sure)


@dataclass
class Caught:
    """What has arrived in a run since its last look: which images (B, bool), as what, and how surely (B)."""

    there: Tensor
    images: Tensor
    values: Tensor

    @classmethod
    def nothing(cls, x: Tensor) -> Caught:
        """Of no image of `x` yet."""
        return cls(torch.zeros(len(x), dtype=torch.bool, device=x.device), x, x.new_zeros(len(x)))

    def note(self, x_adv: Tensor, found: Ascent, y: Tensor, target: Tensor | None = None) -> None:
        """Take in the iterates `x_adv` that have arrived; of several for an image the surest."""
        now = arrived(found.logits, y, target)
        fresh = now & (~self.there | (found.values > self.values))
        self.images = torch.where(per_sample(fresh, x_adv), x_adv, self.images)
        self.values, self.there = torch.where(fresh, found.values, self.values), self.there | now

    def settle(self, model: nn.Module, y: Tensor, target: Tensor | None = None) -> Tensor:
        """Which of them (B, bool) the original confirms; nothing is caught any more."""
        done, self.there = confirmed(model, self.images, self.there, y, target), torch.zeros_like(self.there)
        return done

    def __getitem__(self, rows: Tensor) -> Caught:
        return Caught(self.there[rows], self.images[rows], self.values[rows])


def should_check_success(number: int, device: torch.device) -> bool:
    """Whether an attack looks after `number` steps which images are broken, to leave them alone from then on.

    On a processor always. To ask makes the host wait for a GPU, so there after 1, 2, 4, 8 and then every 16 steps.
    """
    return device.type != "cuda" or number % 16 == 0 or number in (1, 2, 4, 8)


def resolve_targets(
    model: nn.Module, x: Tensor, y: Tensor, target: Target, generator: torch.Generator | None
) -> Tensor | None:
    """Resolve a target rule on clean images to one class per sample (B); see `OneStepTarget`.

    Raises `InputError` for an unknown rule.
    """
    if target is None:
        return None
    with torch.no_grad():
        logits = model(x)
    classes = logits.shape[1]
    if target == "least_likely":
        least: Tensor = logits.argmin(dim=1)
        return least
    if target == "random":
        others: Tensor = (y + 1 + Draws(x, generator).integers(classes - 1)) % classes
        return others
    if isinstance(target, int) and 0 <= target < classes:
        return torch.full_like(y, target)
    raise InputError(f"target '{target}' is unknown: use least_likely, random or a class from 0 to {classes - 1}")


def wrong_classes(logits: Tensor, y: Tensor) -> Tensor:
    """The wrong classes of each sample, the most likely first: B×(K−1)."""
    order: Tensor = logits.scatter(1, y[:, None], torch.inf).argsort(dim=1, descending=True, stable=True)[:, 1:]
    return order


def runs_at_once(x: Tensor, standing: int) -> int:
    """How many runs of an attack fit one pass over `standing` of the images `x`: few images fill a batch too.

    A pass holds at most `MOST` times the images of the caller's batch, who thus decides about the memory.
    """
    return max(1, max(len(x), min(fill(x), MOST * len(x))) // max(standing, 1))


def fill(x: Tensor) -> int:
    """How many images of the size of `x` (B×C×H×W) keep its device busy: a GPU takes few in the time of many."""
    return int(2 ** (24 if x.is_cuda else 19) // max(x[:1].numel(), 1))


def check_images(x: Tensor, threat: Threat) -> None:
    """Raise `InputError` unless `x` holds finite float images inside the threat's range."""
    if not x.is_floating_point():
        raise InputError(
            f"images are {x.dtype}: attacks take floats in [{threat.low:g}, {threat.high:g}], divide by 255"
        )
    if not len(x):
        return
    low, high = torch.stack(x.aminmax()).tolist()
    if not (threat.low - 1e-6 <= low and high <= threat.high + 1e-6):  # false for NaN too
        raise InputError(
            f"images span [{low:g}, {high:g}], outside the threat's range [{threat.low:g}, {threat.high:g}]: "
            "put normalisation inside the model (inoculate.models.normalize.Normalize) and pass plain pixels"
        )


def check_options(**options: object) -> None:
    """Raise `InputError` for an attack option that would attack nothing, or the wrong way."""
    for name, value in options.items():
        if name in ("steps", "restarts", "eot", "queries", "targets") and (not isinstance(value, int) or value < 1):
            raise InputError(f"{name} {value!r} makes no attack: give a whole number of at least 1")
        if name == "step" and not (isinstance(value, int | float) and 0 < value < float("inf")):
            raise InputError(f"step {value!r} is not a step length: give a number above 0, relative to eps")
        if name == "decay" and not (isinstance(value, int | float) and 0 <= value < float("inf")):
            raise InputError(f"decay {value!r} is not a momentum: give a number of at least 0")
        if name == "termination_ratio" and not (isinstance(value, int | float) and value > 0):
            raise InputError(f"termination_ratio {value!r} is not a ratio: give a number above 0, infinity for never")
        if name == "diversity" and not (isinstance(value, int | float) and 0 <= value <= 1):
            raise InputError(f"diversity {value!r} is not a probability: give a number from 0 to 1")
        if name == "blur" and not (isinstance(value, int) and (value == 0 or (value > 0 and value % 2 == 1))):
            raise InputError(f"blur {value!r} is not a width in pixels: give an odd number, or 0 for none")
        if name == "target" and not (value is None or isinstance(value, int) or value in ("least_likely", "random")):
            raise InputError(f"target {value!r} is unknown: use least_likely, random or a class number")
        if name == "loss":
            loss_named(str(value))


def _own(t: Tensor) -> Tensor:
    """The tensor, or a copy that autograd may record if the caller made it under `inference_mode`."""
    return t.detach().clone() if t.is_inference() else t.detach()
