"""Adversarial patches: a square of any values, laid over an image at a random place."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks.ascent import accumulate
from inoculate.attacks.base import carry_out, require_l0
from inoculate.attacks.gradients import ValueAndGrad, value_and_input_grad
from inoculate.attacks.losses import Objective, get_loss
from inoculate.attacks.success import BestAdversarial, evaluate_adversarial, should_check_success
from inoculate.attacks.targets import Target, check_target, resolve_targets
from inoculate.core.errors import InputError
from inoculate.core.modes import frozen
from inoculate.core.options import require_bool, require_count, require_positive
from inoculate.core.rng import Draws
from inoculate.core.threat import Threat, per_sample

Place = tuple[Tensor, Tensor]  # top and left of the square in each image (B, B)


@dataclass(frozen=True)
class Patch:
    """A square of any values in each image, at a random place, by steps along the gradient's sign inside the square.

    For images B×C×H×W in the threat's range, norm l0: the square is the largest of at most eps pixels, so eps 25 is a
    patch of 5×5. Its place depends on the image and on `generator`, not on the model.

    Options:
        steps: number of steps.
        step: their length, relative to the range.
        restarts: random places that are tried; the first at which the image is adversarial counts, else the first.
        eot: with 1 the patch is made for its place. With more, for any place: each step averages the gradients at so
            many random ones, and there is no early stop.
        loss: `cross_entropy`, `margin` or `dlr`.
        target: as in `OneStepTarget`: raise that class instead; None for untargeted.
        early_stop: stop changing an image as soon as it is adversarial.

    Raises `InputError` for another norm, an option out of its range, images outside theirs, or a model that is not
    differentiable.
    Source: Karmon et al. 2018 (LaVAN), section 3; `eot`: Brown et al. 2017, equation 1.
    """

    steps: int = 100
    step: float = 0.05
    restarts: int = 1
    eot: int = 1
    loss: str = "cross_entropy"
    target: Target = None
    early_stop: bool = False

    def __post_init__(self) -> None:
        require_count(steps=self.steps, restarts=self.restarts, eot=self.eot)
        require_positive(step=self.step)
        get_loss(self.loss)
        check_target(self.target)
        require_bool(early_stop=self.early_stop)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        require_l0("the patch", threat)

        def craft(x: Tensor, y: Tensor) -> Tensor:
            side = largest_side(x, threat)
            if not side:
                return x.clone()
            objective = Objective(get_loss(self.loss), y, resolve_targets(model, x, y, self.target, generator))
            result, rows, draws = x.clone(), torch.arange(len(x), device=x.device), Draws(x, generator)
            for number in range(self.restarts):
                run = _Run.begin(x, objective, threat, side, draws).select(rows)
                found = self._ascend(model, run, threat, draws)
                adversarial = evaluate_adversarial(model, found, objective.select(rows))
                kept = adversarial if number else torch.ones_like(adversarial)
                result[rows[kept]] = found[kept]
                rows = rows[~adversarial]
                if not len(rows):
                    break
            return result

        return carry_out(model, x, y, threat, craft)

    def with_early_stop(self) -> Patch:
        """The same attack, which stops early."""
        return replace(self, early_stop=True)

    def without_early_stop(self) -> Patch:
        """The same attack, which spends all its steps on every image."""
        return replace(self, early_stop=False)

    def shortened(self) -> Patch:
        """The same attack with two steps."""
        return replace(self, steps=2)

    def _ascend(self, model: nn.Module, run: _Run, threat: Threat, draws: Draws) -> Tensor:
        """The images with the last patch of their run, or with the adversarial one that ended it."""
        result, everything = run.x.clone(), run.rows
        run.rows, length = torch.arange(len(run.x), device=run.x.device), self.step * (threat.high - threat.low)
        stops = self.early_stop and self.eot == 1
        for number in range(self.steps):
            if self.eot == 1:
                x_adv = paste(run.x, run.patch, run.place)
                passed = value_and_input_grad(model, x_adv, run.objective)
                if stops and number:
                    run.best.update(x_adv, passed, run.objective.y, run.objective.target)
                    if should_check_success(number, run.x.device):
                        run, passed = _settle(model, run, passed, result)
                        if not len(run.rows):
                            return result
                gradient = cut(passed.gradient, run.place, run.patch.shape[-1])
            else:
                gradient = self._expected_gradient(model, run, draws, everything)
            run.patch = (run.patch + length * gradient.sign()).clamp(threat.low, threat.high)
        result[run.rows] = paste(run.x, run.patch, run.place)
        if stops:
            _settle(model, run, passed, result)
        return result

    def _expected_gradient(self, model: nn.Module, run: _Run, draws: Draws, rows: Tensor) -> Tensor:
        """The gradient in the patch, averaged over random places."""
        side, total = run.patch.shape[-1], torch.zeros_like(run.patch)
        for _ in range(self.eot):
            place = _chosen(random_places(run.x, side, draws), rows)
            passed = value_and_input_grad(model, paste(run.x, run.patch, place), run.objective)
            total += cut(passed.gradient, place, side)
        return total / self.eot


@dataclass(frozen=True, eq=False)
class FixedPatch:
    """A patch that is the same for all images, laid at a random place of each; an attack that looks at no model.

    `values`: C×side×side in the threat's range. Raises `InputError` for another norm than l0, an eps of fewer pixels
    than the patch has, and for images that it does not fit into.
    """

    values: Tensor

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        require_l0("the patch", threat)
        channels, side = self.values.shape[0], self.values.shape[-1]
        if threat.eps and threat.eps < side * side:
            raise InputError(f"a patch of {side}×{side} pixels needs an l0 eps of {side * side}, not {threat.eps:g}")
        if channels != x.shape[1] or side > min(x.shape[2:]):
            size = "×".join(map(str, x.shape[1:]))
            raise InputError(f"a patch of {channels}×{side}×{side} does not fit into images of {size}")

        def craft(x: Tensor, y: Tensor) -> Tensor:
            patch = self.values.to(x).expand(len(x), -1, -1, -1)
            return paste(x, patch, random_places(x, side, Draws(x, generator))) if threat.eps else x.clone()

        return carry_out(model, x, y, threat, craft)


def ascend_universal(
    model: nn.Module,
    start: Tensor,
    batches: Callable[[int], tuple[Tensor, Tensor]],
    objective: Callable[[Tensor, Tensor], Objective],
    steps: int,
    step: float,
    generator: torch.Generator,
) -> Tensor:
    """Raise the mean objective of one patch on many images at random places: expectation over transformation.

    Args:
        model: images in [0, 1] (B×C×H×W) to logits.
        start: the first patch, C×side×side.
        batches: from the number of a step to its images and labels.
        objective: from images and labels to what is raised.
        steps: number of steps, each along the sign of the gradient with momentum 0.9.
        step: their length, in pixel units of [0, 1].
        generator: draws the places, anew in each step.

    Source: Brown et al. 2017, equation 1.
    """
    patch, velocity = start, torch.zeros_like(start)[None]
    with frozen(model):
        for number in range(steps):
            x, y = batches(number)
            place = random_places(x, patch.shape[-1], Draws(x, generator))
            pasted = paste(x, patch.to(x).expand(len(x), -1, -1, -1), place)
            passed = value_and_input_grad(model, pasted, objective(x, y))
            gradient = cut(passed.gradient, place, patch.shape[-1]).mean(dim=0, keepdim=True).to(velocity)
            velocity = accumulate(velocity, gradient, 0.9)
            patch = (patch + step * velocity[0].sign()).clamp(0, 1)
    return patch


def largest_side(x: Tensor, threat: Threat) -> int:
    """The side of the largest square of at most eps pixels that fits into the images."""
    return min(math.isqrt(int(threat.eps)), *x.shape[2:])


def random_places(x: Tensor, side: int, draws: Draws) -> Place:
    """A random place of the square for each image."""
    top, left = (draws.integers(size - side + 1) for size in x.shape[2:])
    return top, left


def paste(x: Tensor, patch: Tensor, place: Place) -> Tensor:
    """The images (B×C×H×W) with a patch each (B×C×side×side) at its place."""
    pasted = x.clone()
    pasted.permute(0, 2, 3, 1)[_square(place, patch.shape[-1])] = patch.permute(0, 2, 3, 1)
    return pasted


def cut(x: Tensor, place: Place, side: int) -> Tensor:
    """What lies in the square of each image: B×C×side×side."""
    return x.permute(0, 2, 3, 1)[_square(place, side)].permute(0, 3, 1, 2)


def _square(place: Place, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The numbers of image, row and column of the pixels in each square, B×side×side together."""
    along = torch.arange(side, device=place[0].device)
    images = torch.arange(len(place[0]), device=place[0].device)
    return images[:, None, None], (place[0][:, None] + along)[:, :, None], (place[1][:, None] + along)[:, None, :]


def _chosen(place: Place, rows: Tensor) -> Place:
    return place[0][rows], place[1][rows]


@dataclass
class _Run:
    """The images that still change (`rows` of the batch) and what belongs to them."""

    rows: Tensor
    x: Tensor
    patch: Tensor
    place: Place
    objective: Objective
    best: BestAdversarial

    @classmethod
    def begin(cls, x: Tensor, objective: Objective, threat: Threat, side: int, draws: Draws) -> _Run:
        """Random patches at random places."""
        place = random_places(x, side, draws)
        patch = threat.low + (threat.high - threat.low) * draws.uniform(x.shape[1], side, side).to(x)
        rows = torch.arange(len(x), device=x.device)
        return cls(rows, x, patch, place, objective, BestAdversarial.empty(x))

    def select(self, rows: Tensor) -> _Run:
        return _Run(
            self.rows[rows], self.x[rows], self.patch[rows], _chosen(self.place, rows), self.objective.select(rows),
            self.best.select(rows),
        )  # fmt: skip


def _settle(model: nn.Module, run: _Run, passed: ValueAndGrad, result: Tensor) -> tuple[_Run, ValueAndGrad]:
    """Write the adversarial images found into `result`, and go on with the others."""
    done = run.best.confirm(model, run.objective.y, run.objective.target)
    result[run.rows[done]] = run.best.images[done]
    return run.select(~done), ValueAndGrad(*(part[~done] for part in passed))
