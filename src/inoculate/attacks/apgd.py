"""Auto-PGD: gradient ascent with momentum that finds its own step size."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from inoculate.attacks import success
from inoculate.attacks._batching import runs_at_once
from inoculate.attacks.base import carry_out
from inoculate.attacks.gradients import ValueAndGrad, value_and_input_grad
from inoculate.attacks.losses import Objective, get_loss
from inoculate.attacks.success import BestAdversarial
from inoculate.attacks.targets import Target, check_target, resolve_targets, wrong_classes
from inoculate.attacks.termination import check_termination_ratio, is_hopeless
from inoculate.core.errors import InputError
from inoculate.core.options import require_count
from inoculate.core.rng import Draws
from inoculate.core.threat import Threat, per_sample, project, sample, steepest_direction


@dataclass(frozen=True)
class APGD:
    """Auto-PGD (Croce and Hein 2020, algorithm 1): steps are halved where they stop helping.

    `targets` = 0 raises `loss` away from the true class; k > 0 makes one run towards each of the k most likely wrong
    classes in turn (APGD-T with `loss="dlr"`). `restarts` random starts per run. `rho` is the share of steps that must
    rise for a step size to be kept. `eot` gradients are averaged per step, for randomised models.
    An image is left alone as soon as it is misclassified; one that never is comes back at its highest loss. With a
    `target` (as in `OneStepTarget`) the runs go towards that class, and only an image that is taken for it is done.
    `termination_ratio`: a run of `dlr` or `margin` ends after its first check (22 % of the steps) for an image whose way to the
    boundary is still longer than `termination_ratio` times the way it came; infinity never gives up.
    """

    steps: int = 100
    loss: str = "cross_entropy"
    targets: int = 0
    restarts: int = 1
    rho: float = 0.75
    eot: int = 1
    termination_ratio: float = math.inf
    target: Target = None

    def __post_init__(self) -> None:
        require_count(steps=self.steps, restarts=self.restarts, eot=self.eot)
        get_loss(self.loss)
        check_termination_ratio(self.termination_ratio)
        check_target(self.target)
        if self.targets != 0:
            require_count(targets=self.targets)
            if self.target is not None:
                raise InputError(f"APGD with a target tries no others: leave out targets={self.targets}, or the target")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        if threat.norm == "l1":
            raise InputError("APGD is made for linf and l2: for l1 use pgd with many steps, fab_t or fmn")

        def craft(x: Tensor, y: Tensor) -> Tensor:
            draws, sought = Draws(x, generator), resolve_targets(model, x, y, self.target, generator)
            result, best, rows = x.clone(), torch.full_like(y, -torch.inf, dtype=x.dtype), torch.arange(len(x)).to(y)
            ranks = [0]
            if self.targets:
                with torch.no_grad():
                    order = wrong_classes(model(x), y)
                ranks = list(range(min(self.targets, order.shape[1])))
            runs = [rank for rank in ranks for _ in range(self.restarts)]
            while runs and len(rows):
                now = runs[: runs_at_once(x, len(rows))]
                runs = runs[len(now) :]
                many = rows.repeat(len(now))
                target = None if sought is None else sought[many]
                if self.targets:
                    target = torch.cat([order[rows, rank] for rank in now])
                start = torch.cat([sample(x, threat, draws)[rows] for _ in now])
                goal = Objective(get_loss(self.loss), y[many], target)
                found = self._run(model, x[many], goal, threat, start)
                broken = torch.zeros(len(rows), dtype=torch.bool, device=x.device)
                for x_adv, values, fell in zip(*(torch.split(part, len(rows)) for part in found), strict=True):
                    better = ~broken & (fell | (values > best[rows]))
                    result[rows[better]], best[rows[better]] = x_adv[better], values[better]
                    broken |= fell
                rows = rows[~broken]
            return result

        return carry_out(model, x, y, threat, craft)

    def shortened(self) -> APGD:
        """The same attack with two steps."""
        return replace(self, steps=2)

    def _run(
        self, model: nn.Module, x: Tensor, goal: Objective, threat: Threat, start: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One run from `start`: final images, their values (B), and which of them have arrived (B, bool)."""
        result, final = start.clone(), torch.zeros(len(x), dtype=x.dtype, device=x.device)
        broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        first = self._gradient(model, start, goal)
        s = _State.begin(x, goal, start, first, 2 * threat.eps, strict=self.target is not None)

        def drop() -> None:
            done = s.caught.confirm(model, s.y, s.sought)
            if done.any():
                rows, caught = s.rows[done], s.caught.select(done)
                result[rows], final[rows], broken[rows] = caught.images, caught.values, True
                s.keep(~done)

        drop()
        period, since = max(int(0.22 * self.steps), 1), 0
        for number in range(self.steps):
            if not len(s.rows):
                break
            share = 0.75 if number else 1.0
            ahead = project(s.x_adv + s.step * steepest_direction(s.gradient, threat.norm), s.x, threat)
            moved = s.x_adv + (ahead - s.x_adv) * share + (s.x_adv - s.x_old) * (1 - share)
            s.x_old, s.x_adv = s.x_adv, project(moved, s.x, threat)
            found = self._gradient(model, s.x_adv, Objective(goal.loss, s.y, s.target))
            s.take(found)
            if success.should_check_success(number + 1, x.device) or number + 1 in (
                period,
                self.steps,
            ):  # before runs are given up
                drop()
            since += 1
            if since == period:
                s.check(self.rho * period)
                if number + 1 == period and self.loss != "cross_entropy":  # the boundary is at 0
                    hopeless = is_hopeless(s.first, s.best, self.termination_ratio)
                    result[s.rows[hopeless]], final[s.rows[hopeless]] = s.x_best[hopeless], s.best[hopeless]
                    s.keep(~hopeless)
                period, since = max(period - max(int(0.03 * self.steps), 1), max(int(0.06 * self.steps), 1)), 0
        result[s.rows], final[s.rows] = s.x_best, s.best
        return result, final, broken

    def _gradient(self, model: nn.Module, x: Tensor, goal: Objective) -> ValueAndGrad:
        passes = [value_and_input_grad(model, x, goal) for _ in range(self.eot)]
        if len(passes) == 1:
            return passes[0]
        return ValueAndGrad(*(torch.stack(parts).mean(dim=0) for parts in zip(*passes, strict=True)))


@dataclass
class _State:
    """What one run keeps of each image that is not yet misclassified. Every field has one row per image."""

    rows: Tensor
    x: Tensor
    y: Tensor
    target: Tensor | None
    sought: Tensor | None  # the target, where no other error counts
    x_adv: Tensor
    x_old: Tensor
    gradient: Tensor
    x_best: Tensor
    gradient_best: Tensor
    first: Tensor
    best: Tensor
    previous: Tensor
    rises: Tensor
    step: Tensor
    best_at_check: Tensor
    reduced: Tensor
    caught: BestAdversarial

    @classmethod
    def begin(cls, x: Tensor, goal: Objective, start: Tensor, first: ValueAndGrad, step: float, strict: bool) -> _State:
        values, caught, sought = first.values, BestAdversarial.empty(start), goal.target if strict else None
        caught.update(start, first, goal.y, sought)
        return cls(
            rows=torch.arange(len(x), device=x.device), x=x, y=goal.y, target=goal.target, sought=sought,
            x_adv=start, x_old=start, gradient=first.gradient, x_best=start, gradient_best=first.gradient,
            first=values, best=values,
            previous=values, rises=torch.zeros_like(values), step=per_sample(torch.full_like(values, step), x),
            best_at_check=values, reduced=torch.ones_like(values, dtype=torch.bool),
            caught=caught,
        )  # fmt: skip

    def keep(self, rows: Tensor) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                setattr(self, field.name, value.select(rows) if isinstance(value, BestAdversarial) else value[rows])

    def take(self, found: ValueAndGrad) -> None:
        """Note the gradient at `x_adv`, whether it rose, and whether it has arrived, or is the best point so far."""
        self.caught.update(self.x_adv, found, self.y, self.sought)
        self.gradient = found.gradient
        self.rises = self.rises + (found.values > self.previous)
        self.previous = found.values
        better = found.values > self.best
        image = per_sample(better, self.x)
        self.x_best = torch.where(image, self.x_adv, self.x_best)
        self.gradient_best = torch.where(image, self.gradient, self.gradient_best)
        self.best = torch.where(better, found.values, self.best)

    def check(self, enough: float) -> None:
        """Halve the step and go back to the best point where at most `enough` steps rose, or nothing improved."""
        halve = (self.rises <= enough) | (~self.reduced & (self.best_at_check >= self.best))
        self.reduced, self.best_at_check, self.rises = halve, self.best, torch.zeros_like(self.rises)
        image = per_sample(halve, self.x)
        self.step = torch.where(image, self.step / 2, self.step)
        self.x_adv = torch.where(image, self.x_best, self.x_adv)
        self.gradient = torch.where(image, self.gradient_best, self.gradient)
