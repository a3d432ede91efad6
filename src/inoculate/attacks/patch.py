"""Adversarial patches: a square of any values, laid over an image at a random place."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks._pasting import Place, chosen, cut, largest_side, paste, random_places
from inoculate.attacks.base import carry_out, require_l0
from inoculate.attacks.gradients import ValueAndGrad, value_and_input_grad
from inoculate.attacks.losses import LossLike, Objective, get_loss
from inoculate.attacks.success import BestAdversarial, evaluate_adversarial, should_check_success
from inoculate.attacks.targets import Target, build_objective, check_target
from inoculate.core.options import require_bool, require_count, require_positive
from inoculate.core.rng import Draws
from inoculate.core.threat import Threat


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
        loss: as in `FGSM`.
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
    loss: LossLike = "margin"
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
            objective = build_objective(self.loss, model, x, y, threat, self.target, generator)
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
                x_adv = run.images
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
        result[run.rows] = run.images
        if stops:
            _settle(model, run, passed, result)
        return result

    def _expected_gradient(self, model: nn.Module, run: _Run, draws: Draws, rows: Tensor) -> Tensor:
        """The gradient in the patch, averaged over random places."""
        side, total = run.patch.shape[-1], torch.zeros_like(run.patch)
        for _ in range(self.eot):
            place = chosen(random_places(run.x, side, draws), rows)
            passed = value_and_input_grad(model, run.at(place), run.objective)
            total += cut(passed.gradient, place, side)
        return total / self.eot


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

    @property
    def images(self) -> Tensor:
        """The images with their patches."""
        return self.at(self.place)

    def at(self, place: Place) -> Tensor:
        """The images with their patches at other places, where pixels may change."""
        return self.objective.inside(paste(self.x, self.patch, place), self.x)

    def select(self, rows: Tensor) -> _Run:
        return _Run(
            self.rows[rows], self.x[rows], self.patch[rows], chosen(self.place, rows), self.objective.select(rows),
            self.best.select(rows),
        )  # fmt: skip


def _settle(model: nn.Module, run: _Run, passed: ValueAndGrad, result: Tensor) -> tuple[_Run, ValueAndGrad]:
    """Write the adversarial images found into `result`, and go on with the others."""
    done = run.best.confirm(model, run.objective.y, run.objective.target)
    result[run.rows[done]] = run.best.images[done]
    return run.select(~done), ValueAndGrad(*(part[~done] for part in passed))
