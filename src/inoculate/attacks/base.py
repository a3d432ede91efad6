"""The interfaces of attacks, and what every attack shares: checked images, a frozen model, a result in their dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from inoculate.core.allocator import keep_small_buffers
from inoculate.core.calls import takes_hooks
from inoculate.core.errors import InputError
from inoculate.core.modes import dtype_for, frozen
from inoculate.core.outputs import logits_of
from inoculate.core.threat import Norm, Threat, keep_outside, require_threat
from inoculate.data.tensors import check_range, class_numbers
from inoculate.models.acceleration.fast import follow_original, original
from inoculate.models.acceleration.small_maps import inference_context


class Attack(Protocol):
    """Any callable that turns images into adversarial examples: `(model, x, y, threat, *, generator) -> x_adv`.

    `model` maps images (B×C×H×W, in the threat's range) to logits (B×K); `x` and `y` (B, int64) are the clean images
    and their classes. `x_adv` has the shape and dtype of `x` and lies in the ball and the range of `threat`. The
    model's state and the global random state are left as they were.
    """

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor: ...


@runtime_checkable
class OneStep(Protocol):
    """An attack whose direction does not depend on eps: `x_adv = project(x + step_along(x, x, direction, eps))`."""

    def direction(
        self, model: nn.Module, x: Tensor, y: Tensor, norm: Norm, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The direction of the step in `norm`, B×C×H×W; 0 for an image whose gradient is 0."""
        ...


@runtime_checkable
class MultiStep(Protocol):
    """An attack of `steps` steps of length `step` · eps, which uses all of eps instead of stopping at a boundary."""

    @property
    def steps(self) -> int: ...

    @property
    def step(self) -> float: ...


@runtime_checkable
class MinimumNorm(Protocol):
    """An attack that searches the nearest adversarial image, so that one search serves every eps."""

    def closest(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The nearest adversarial image found, at any distance; the image itself where none was, or none was needed."""
        ...


@runtime_checkable
class EarlyStopping(Protocol):
    """An attack that can stop changing an image as soon as it is adversarial.

    That saves time where the model it is called on is the one that judges; another model may need more.
    """

    def with_early_stop(self) -> Attack:
        """The same attack, which stops early."""
        ...

    def without_early_stop(self) -> Attack:
        """The same attack, which spends all its steps on every image."""
        ...


@runtime_checkable
class Targeted(Protocol):
    """An attack that can drive images to one class: `target` is None, a rule, a class or a class per image."""

    @property
    def target(self) -> str | int | Tensor | None: ...


@runtime_checkable
class Iterative(Protocol):
    """An attack with a budget of iterations."""

    def shortened(self) -> Attack:
        """The same attack with two iterations, for a trial of whether it fits a model."""
        ...


@runtime_checkable
class Ensemble(Protocol):
    """An attack made of others: an image counts as broken if any member breaks it."""

    def members(self, classes: int, norm: Norm = "linf") -> Mapping[str, Attack]:
        """The members by name, in the order in which they attack the images that no earlier one has broken."""
        ...


@runtime_checkable
class FromLibrary(Protocol):
    """An attack of another library, whose random numbers depend on the batch's size and order."""

    @property
    def library(self) -> str:
        """The name of the library and its version."""
        ...


def works_image_by_image(attack: object) -> bool:
    """Whether what an attack finds for an image is known not to depend on the others in its batch.

    It is of this package's attacks, and those that they are made of.
    """
    if not type(attack).__module__.startswith("inoculate.") or isinstance(attack, FromLibrary):
        return False
    parts = [getattr(attack, each.name) for each in fields(attack)] if is_dataclass(attack) else []
    return all(works_image_by_image(each) for each in parts if is_dataclass(each) and callable(each))


def shortened(attack: Attack) -> Attack:
    """`attack` with two iterations if it is `Iterative`, else itself."""
    return attack.shortened() if isinstance(attack, Iterative) else attack


def carry_out(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat | None, craft: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Run `craft(x, y) -> x_adv` on the frozen model, after a check of the images against the threat's range, if given.

    `craft` works in the model's dtype, at least fp32. The result has the dtype of `x`, rounded towards `x`, and outside
    the threat's mask it is `x`. Raises `InputError` for a mask that does not fit the images, and for labels that are no
    class numbers, or that the model has no output for.
    """
    if threat is not None:
        check_images(x, threat)
    if not len(x):
        return x.detach().clone()
    keep_small_buffers()
    y, judge = class_labels(y, x), original(model)
    with frozen(model), nullcontext() if judge is model else inference_context(judge), labels_in_range(model, x, y):
        follow_original(model, x.detach())
        clean = _detached(x)
        x_adv = round_towards(craft(clean.to(dtype_for(model)), _detached(y)).detach(), clean)
        return x_adv if threat is None else keep_outside(x_adv, clean, threat)


def round_towards(x_adv: Tensor, x: Tensor) -> Tensor:
    """`x_adv` in the dtype of `x`; where rounding would move a pixel away from `x`, the next number towards it."""
    if x_adv.dtype is x.dtype:
        return x_adv
    near, exact = x_adv.to(x.dtype), x_adv.double()
    further = (near.double() - x.double()).abs() > (exact - x.double()).abs()
    return torch.where(further, torch.nextafter(near, x), near)


def refuse_l0(attack: str, threat: Threat) -> None:
    """Raise `InputError` for a threat in L0, for an attack that has no such version."""
    if threat.norm == "l0":
        raise InputError(f"{attack} has no version for l0: use sigma_zero, sparse_rs, pgd or fmn")


def require_l0(attack: str, threat: Threat) -> None:
    """Raise `InputError` for a threat in any other norm, for an attack that is made for L0."""
    if threat.norm != "l0":
        raise InputError(f"{attack} is made for l0, not {threat.norm}: give norm l0, and eps as a number of pixels")


def check_images(x: Tensor, threat: Threat) -> None:
    """Raise `InputError` unless `x` holds finite float images inside the threat's range."""
    require_threat(threat)
    if not isinstance(x, Tensor):
        raise InputError(f"images are a {type(x).__name__}: attacks take a tensor, torch.as_tensor(images)")
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
            "pass plain pixels and put the normalisation inside the model, by load_model(model, normalize=...)"
        )


def class_labels(y: Tensor, x: Tensor) -> Tensor:
    """Labels of the images `x` in any form that `Dataset.from_tensors` takes, as int64 on their device."""
    if isinstance(y, Tensor) and y.dtype is torch.int64 and y.shape == x.shape[:1]:
        return y.to(x.device)
    return class_numbers(y, len(x), "labels")[0].to(x.device)


@contextmanager
def labels_in_range(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[None]:
    """Inside, the first pass of `model` raises `InputError` where a label (N, int64) has no output.

    A model that takes no hooks is asked on the first image, once it has failed.
    """

    def check(output: Any) -> None:
        logits = logits_of(output)
        if isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] > 1:
            check_range(y, logits.shape[1], "labels", f"the {logits.shape[1]} outputs of the model")

    if takes_hooks(model):

        def check_once(_: nn.Module, inputs: Any, output: Any) -> None:
            hook.remove()
            check(output)

        hook = model.register_forward_hook(check_once)
        try:
            yield
        finally:
            hook.remove()
        return
    try:
        yield
    except (IndexError, RuntimeError):
        check(model(x[:1]))
        raise


def _detached(t: Tensor) -> Tensor:
    """The tensor without its graph; a copy that autograd may record if the caller made it under `inference_mode`."""
    return t.detach().clone() if t.is_inference() else t.detach()
