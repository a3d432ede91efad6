"""Auto-PGD: gradient ascent with momentum that finds its own step size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks import success
from inoculate.attacks._apgd_run import Found, Run
from inoculate.attacks._apgd_steps import checkpoints, radius_schedule
from inoculate.attacks._batching import runs_at_once
from inoculate.attacks.base import carry_out, refuse_l0
from inoculate.attacks.gradients import ValueAndGrad, value_and_input_grad
from inoculate.attacks.losses import LossLike, Objective, get_loss, logits_fp32
from inoculate.attacks.targets import Target, check_target, resolve_targets, wrong_classes
from inoculate.attacks.termination import check_termination_ratio, is_hopeless, outlook, stages
from inoculate.core.errors import InputError
from inoculate.core.options import require_bool, require_count, require_fraction
from inoculate.core.rng import Draws
from inoculate.core.threat import Threat, keep_outside, project, sample


@dataclass(frozen=True)
class APGD:
    """Gradient ascent with momentum whose steps are halved where they stop helping.

    For images B×C×H×W in the threat's range. An image that never is adversarial comes back at its highest loss. In L1 a
    step is sparse, and a run begins in a ball three times as large, then twice, then in that of eps; the last step in a
    ball goes to the point that FGSM would find from the gradient at the best one.

    Options:
        steps: steps of a run.
        loss: as in `FGSM`; `dlr` needs three classes, four with a target.
        targets: 0 for untargeted runs; k for one run towards each of the k most likely wrong classes (APGD-T with
            loss `dlr`), in which any error counts.
        restarts: random starts of each run.
        rho: fraction of the steps since the last check that must raise the loss for the step size to be kept.
        eot: gradients averaged per step, for randomised models. Above 1 every run goes to its end, whatever a pass on
            the way says, and the iterate of the highest mean loss counts.
        termination_ratio: from 6 % of the steps on (`termination.STAGES`), a run ends for an image whose missing loss
            exceeds this times what was gained (a fifth of the steps; less later, see `outlook`). The margin
            decides for a loss that is not 0 at the boundary. In L1 a run ends when it leaves the largest ball, after
            30 %. Infinity for never.
        target: as in `OneStepTarget`: all runs go towards that class, and only it counts; None for any.
        early_stop: stop changing an image once it is adversarial; else its adversarial iterate of highest loss counts.

    Raises `InputError` for an option out of its range, images outside theirs, or a model that is not differentiable.
    Source: Croce and Hein 2020, algorithm 1 and section 3; targeted DLR: section 4. L1: Croce and Hein 2021.
    """

    steps: int = 100
    loss: LossLike = "cross_entropy"
    targets: int = 0
    restarts: int = 1
    rho: float = 0.75
    eot: int = 1
    termination_ratio: float = math.inf
    target: Target = None
    early_stop: bool = True

    def __post_init__(self) -> None:
        require_count(steps=self.steps, restarts=self.restarts, eot=self.eot)
        require_fraction(rho=self.rho)
        get_loss(self.loss)
        check_termination_ratio(self.termination_ratio)
        check_target(self.target)
        require_bool(early_stop=self.early_stop)
        if self.targets != 0:
            require_count(targets=self.targets)
            if self.target is not None:
                raise InputError(f"APGD with a target tries no others: leave out targets={self.targets}, or the target")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        refuse_l0("APGD", threat)
        return carry_out(model, x, y, threat, lambda x, y: self._attack(model, x, y, threat, generator))

    def with_early_stop(self) -> APGD:
        """The same attack, which stops early."""
        return replace(self, early_stop=True)

    def without_early_stop(self) -> APGD:
        """The same attack, which spends all its steps on every image."""
        return replace(self, early_stop=False)

    def shortened(self) -> APGD:
        """The same attack with two steps."""
        return replace(self, steps=2)

    def _attack(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator | None
    ) -> Tensor:
        """All runs, several to a pass; an image that a run has broken takes no part in later ones."""
        draws, fixed = Draws(x, generator), resolve_targets(model, x, y, self.target, generator)
        runs = [target for target in self._targets(model, x, y, fixed) for _ in range(self.restarts)]
        result, highest = x.clone(), torch.full_like(y, -torch.inf, dtype=x.dtype)
        objective = Objective(get_loss(self.loss), y, changeable=threat.changeable(x))
        rows, broken = torch.arange(len(x)).to(y), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        while runs and len(rows):
            now = runs[: runs_at_once(x, len(rows))]
            runs = runs[len(now) :]
            many = rows.repeat(len(now))
            target = None if now[0] is None else torch.cat([each[rows] for each in now if each is not None])
            start = torch.cat([self._start(x, threat, draws)[rows] for _ in now])
            aim = replace(objective.select(many), target=target)
            found = self._run(model, x[many], aim, threat, start, len(rows))
            for run in zip(*(torch.split(part, len(rows)) for part in found), strict=True):
                x_adv, values, adversarial = run
                better = (adversarial & ~broken[rows]) | ((adversarial == broken[rows]) & (values > highest[rows]))
                result[rows[better]], highest[rows[better]] = x_adv[better], values[better]
                broken[rows] |= adversarial
            rows = rows[~broken[rows]] if self.early_stop else rows
        return result

    def _targets(self, model: nn.Module, x: Tensor, y: Tensor, fixed: Tensor | None) -> list[Tensor | None]:
        """The target classes (B, or None) of each run."""
        if not self.targets:
            return [fixed]
        with torch.no_grad():
            order = wrong_classes(logits_fp32(model, x), y)
        return list(order[:, : self.targets].unbind(dim=1))

    def _start(self, x: Tensor, threat: Threat, draws: Draws) -> Tensor:
        """A random point: for L1 Gaussian noise inside the mask, projected into the first and widest ball."""
        if threat.norm != "l1":
            return sample(x, threat, draws)
        widest = radius_schedule(threat, self.steps)[0][0]
        noisy = x + draws.normal(*x.shape[1:]).to(x.dtype)
        return project(keep_outside(noisy, x, threat), x, widest)

    def _run(
        self, model: nn.Module, x: Tensor, objective: Objective, threat: Threat, start: Tensor, images: int
    ) -> Found:
        """One run from `start` for each of `x`, which holds a number of `images` several times."""
        found, balls = Found.nothing(start), radius_schedule(threat, self.steps)
        sought = None if self.target is None else objective.target
        run = Run.begin(x, objective, sought, start, self._gradient(model, start, objective), balls[0][0])
        for ball, steps in balls[:-1]:  # what is found in a wider ball does not count
            run = self._ascend(model, self._within(model, run, ball), steps, None, images)
            if ball is balls[0][0]:
                run = self._end_hopeless(model, run, threat, found, self.termination_ratio)
        judged = stages(self.steps, self.termination_ratio) if len(balls) == 1 else []
        run = self._ascend(model, self._within(model, run, threat), balls[-1][1], found, images, judged)
        found.take_best(run)
        return found

    def _ascend(
        self, model: nn.Module, run: Run, steps: int, found: Found | None, images: int, judged: Sequence[int] = ()
    ) -> Run:
        """So many steps; where adversarial images count they go into `found`. Returns the runs that remain.

        After the steps `judged`, hopeless runs end; on a GPU where success is checked too, as both make the host wait.
        """
        judges = found if self.eot == 1 else None  # a pass of a randomised model is no verdict
        if judges is not None and self.early_stop:
            run = judges.take_adversarial(run, model, images)
        checks = checkpoints(steps, run.ball)
        for number in range(1, steps + 1):
            if not len(run.rows):
                break
            if run.ball.norm == "l1" and number == steps:  # the sparse steps come near the best point, not quite there
                run.jump()
            else:
                run.move(number == 1)
            run.update(self._gradient(model, run.current.images, run.objective))
            checked = success.should_check_success(number, run.x.device)
            if judges is not None and (number == steps or (checked and self.early_stop)):
                run = judges.take_adversarial(run, model, images)  # always before runs are ended
            if number in checks:
                run.check(self.rho * checks[number])
            if checked and number in judged and found is not None:
                ratio = self.termination_ratio * outlook(float(number), steps)
                run = self._end_hopeless(model, run, run.ball, found, ratio)
        return run

    def _within(self, model: nn.Module, run: Run, ball: Threat) -> Run:
        """The runs in another ball, from their best points."""
        if run.ball == ball or not len(run.rows):
            return run
        start = project(run.best.images, run.x, ball)
        return run.restarted(start, self._gradient(model, start, run.objective), ball)

    def _end_hopeless(self, model: nn.Module, run: Run, threat: Threat, found: Found, ratio: float) -> Run:
        """Store the best images of hopeless runs, within `threat`; returns the other runs."""
        hopeless = is_hopeless(run.began, run.reached, ratio)
        hopeless &= ~(run.adversarial.found & (self.eot == 1))  # towards a target, any error counts
        if not hopeless.any():
            return run
        found.take_best(self._within(model, run.select(hopeless), threat))
        return run.select(~hopeless)

    def _gradient(self, model: nn.Module, x: Tensor, objective: Objective) -> ValueAndGrad:
        return value_and_input_grad(model, x, objective, eot=self.eot)
