"""Gradient attacks over one ascent loop: FGSM, one-step target, BIM and PGD, for every norm."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from inoculate.attacks.losses import Loss, cross_entropy, input_gradient, loss_named
from inoculate.errors import InputError
from inoculate.modes import frozen
from inoculate.threat import Norm, Threat, project, sample, steepest

Target = str | int | None


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


@dataclass(frozen=True)
class FGSM:
    """One step of length eps up the loss of the true class (Goodfellow et al. 2015, equation in section 4)."""

    loss: str = "cross_entropy"

    def __post_init__(self) -> None:
        _check(loss=self.loss)

    def direction(
        self, model: nn.Module, x: Tensor, y: Tensor, norm: Norm, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The unit step (in `norm`), B×C×H×W; 0 where the gradient is 0."""
        with frozen(model):
            return steepest(input_gradient(model, _own(x), _own(y), loss_named(self.loss)), norm)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        check_images(x, threat)
        return step(x, self.direction(model, x, y, threat.norm, generator=generator), threat)


@dataclass(frozen=True)
class OneStepTarget:
    """One step of length eps *down* the loss of another class (Kurakin et al. 2017, section 3.2).

    `target`: `"least_likely"` (the model's lowest logit), `"random"` (any wrong class), or a class index; samples that
    already belong to that class are attacked untargeted.
    """

    target: Target = "least_likely"
    loss: str = "cross_entropy"

    def __post_init__(self) -> None:
        _check(target=self.target, loss=self.loss)

    def direction(
        self, model: nn.Module, x: Tensor, y: Tensor, norm: Norm, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The unit step (in `norm`), B×C×H×W; 0 where the gradient is 0."""
        with frozen(model):
            x, goal = _own(x), aim(model, x, y, self.target, generator)
            return steepest(input_gradient(model, x, goal.y, goal.loss(loss_named(self.loss))), norm)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        check_images(x, threat)
        return step(x, self.direction(model, x, y, threat.norm, generator=generator), threat)


@dataclass(frozen=True)
class BIM:
    """`steps` small steps up the loss from the clean image, each projected back (Kurakin et al. 2017, section 3.3).

    `step` is relative to eps. With a `target` (as in `OneStepTarget`) it descends that class's loss instead.
    """

    steps: int = 10
    step: float = 0.25
    target: Target = None
    loss: str = "cross_entropy"

    def __post_init__(self) -> None:
        _check(steps=self.steps, step=self.step, target=self.target, loss=self.loss)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        check_images(x, threat)
        with frozen(model):
            x, goal = _own(x), aim(model, x, y, self.target, generator)
            loss = goal.loss(loss_named(self.loss))
            return ascend(model, x, goal.y, threat, steps=self.steps, step=self.step, start=x, loss=loss)


@dataclass(frozen=True)
class PGD:
    """BIM from a random point of the ball, the worst of `restarts` kept per sample (Madry et al. 2018, section 2.1).

    `step` is relative to eps. A sample's worst restart is one that it misclassifies, else the one of highest loss;
    within a restart the last iterate counts. `start` (an image batch) replaces the first random start.
    """

    steps: int = 10
    step: float = 0.25
    restarts: int = 1
    loss: str = "cross_entropy"

    def __post_init__(self) -> None:
        _check(steps=self.steps, step=self.step, restarts=self.restarts, loss=self.loss)

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
        check_images(x, threat)
        loss = loss_named(self.loss)
        with frozen(model):
            x, y = _own(x), _own(y)
            first = sample(x, threat, generator) if start is None else project(_own(start), x, threat)
            worst = ascend(model, x, y, threat, steps=self.steps, step=self.step, start=first, loss=loss)
            for _ in range(1, self.restarts):
                again = sample(x, threat, generator)
                other = ascend(model, x, y, threat, steps=self.steps, step=self.step, start=again, loss=loss)
                worse = _worse(model, other, worst, y, loss)
                worst = torch.where(worse.view(-1, *[1] * (x.ndim - 1)), other, worst)
            return worst


ATTACKS: dict[str, type[Any]] = {"fgsm": FGSM, "one_step_target": OneStepTarget, "bim": BIM, "pgd": PGD}


def attack_named(name: str) -> Attack:
    """The attack of this registry name with its default options; raises `InputError` naming the nearest known one."""
    if name not in ATTACKS:
        near = difflib.get_close_matches(name, ATTACKS, n=1)
        raise InputError(
            f"attack '{name}' is unknown: " + (f"did you mean '{near[0]}'?" if near else f"use {', '.join(ATTACKS)}")
        )
    attack: Attack = ATTACKS[name]()
    return attack


def ascend(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    step: float,
    start: Tensor,
    loss: Loss = cross_entropy,
) -> Tensor:
    """The one inner loop: `steps` steepest steps of length `step`·eps up `loss` from `start`, each projected.

    Returns the last iterate, B×C×H×W. The caller holds `frozen(model)`.
    """
    x_adv = start
    for _ in range(steps):
        gradient = input_gradient(model, x_adv, y, loss)
        x_adv = project(x_adv + step * threat.eps * steepest(gradient, threat.norm), x, threat)
    return x_adv


def step(x: Tensor, direction: Tensor, threat: Threat) -> Tensor:
    """One step of length eps along a unit `direction`, projected."""
    x = x.detach()
    return project(x + threat.eps * direction, x, threat)


@dataclass(frozen=True)
class _Aim:
    """Labels to attack, and per sample whether the loss is raised (+1, away from `y`) or lowered (−1, towards it)."""

    y: Tensor
    sign: Tensor

    def loss(self, base: Loss) -> Loss:
        return lambda logits, y: self.sign * base(logits, y)


def aim(model: nn.Module, x: Tensor, y: Tensor, target: Target, generator: torch.Generator | None) -> _Aim:
    """Resolve a target rule on clean images; see `OneStepTarget`. Raises `InputError` for an unknown rule."""
    y = _own(y)
    if target is None:
        return _Aim(y, torch.ones_like(y))
    with torch.no_grad():
        logits = model(x)
    classes = logits.shape[1]
    if target == "least_likely":
        goal = logits.argmin(dim=1)
    elif target == "random":
        shift = torch.randint(1, classes, y.shape, generator=generator, device=y.device)
        goal = (y + shift) % classes
    elif isinstance(target, int) and 0 <= target < classes:
        goal = torch.full_like(y, target)
    else:
        raise InputError(f"target '{target}' is unknown: use least_likely, random or a class from 0 to {classes - 1}")
    return _Aim(goal, torch.where(goal == y, 1, -1))


def check_images(x: Tensor, threat: Threat) -> None:
    """Raise `InputError` unless `x` holds finite float images inside the threat's range."""
    if not x.is_floating_point():
        raise InputError(
            f"images are {x.dtype}: attacks take floats in [{threat.low:g}, {threat.high:g}], divide by 255"
        )
    if not len(x):
        return
    low, high = x.min().item(), x.max().item()
    if not (threat.low - 1e-6 <= low and high <= threat.high + 1e-6):  # false for NaN too
        raise InputError(
            f"images span [{low:g}, {high:g}], outside the threat's range [{threat.low:g}, {threat.high:g}]: "
            "put normalisation inside the model (inoculate.models.normalize.Normalize) and pass plain pixels"
        )


def _check(**options: object) -> None:
    """Raise `InputError` for an attack option that would attack nothing, or the wrong way."""
    for name, value in options.items():
        if name in ("steps", "restarts") and (not isinstance(value, int) or value < 1):
            raise InputError(f"{name} {value!r} makes no attack: give a whole number of at least 1")
        if name == "step" and not (isinstance(value, int | float) and 0 < value < float("inf")):
            raise InputError(f"step {value!r} is not a step length: give a number above 0, relative to eps")
        if name == "target" and not (value is None or isinstance(value, int) or value in ("least_likely", "random")):
            raise InputError(f"target {value!r} is unknown: use least_likely, random or a class number")
        if name == "loss":
            loss_named(str(value))


def _own(t: Tensor) -> Tensor:
    """The tensor, or a copy that autograd may record if the caller made it under `inference_mode`."""
    return t.detach().clone() if t.is_inference() else t.detach()


def _worse(model: nn.Module, rival: Tensor, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """Per sample (B, bool), whether `rival` harms more than `x`: misclassified beats correct, then the loss decides."""
    with torch.no_grad():
        old, new = model(x).float(), model(rival).float()
    old_wrong, new_wrong = old.argmax(dim=1) != y, new.argmax(dim=1) != y
    worse: Tensor = (new_wrong & ~old_wrong) | ((new_wrong == old_wrong) & (loss(new, y) > loss(old, y)))
    return worse
