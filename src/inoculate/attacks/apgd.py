"""Auto-PGD: gradient ascent with momentum that finds its own step size."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks import success
from inoculate.attacks._apgd_run import Found, Run
from inoculate.attacks._batching import runs_at_once
from inoculate.attacks.base import carry_out, refuse_l0
from inoculate.attacks.gradients import ValueAndGrad, value_and_input_grad
from inoculate.attacks.losses import LossLike, Objective, get_loss, logits_fp32
from inoculate.attacks.targets import Target, check_target, resolve_targets, wrong_classes
from inoculate.attacks.termination import check_termination_ratio, is_hopeless
from inoculate.core.errors import InputError
from inoculate.core.options import require_bool, require_count, require_fraction
from inoculate.core.rng import Draws
from inoculate.core.threat import Threat, sample

MOMENTUM = 0.75  # weight of the new step against the last one (the paper's α)


@dataclass(frozen=True)
class APGD:
    """Gradient ascent with momentum whose steps are halved where they stop helping.

    For images B×C×H×W in the threat's range, norms linf and l2. An image that never is adversarial comes back at its
    highest loss.

    Options:
        steps: steps of a run.
        loss: as in `FGSM`; `dlr` needs three classes, four with a target.
        targets: 0 for untargeted runs; k for one run towards each of the k most likely wrong classes (APGD-T with
            loss `dlr`), in which any error counts.
        restarts: random starts of each run.
        rho: fraction of the steps since the last check that must raise the loss for the step size to be kept.
        eot: gradients averaged per step, for randomised models. Above 1 every run goes to its end, whatever a pass on
            the way says, and the iterate of the highest mean loss counts.
        termination_ratio: a run on `dlr` or `margin` ends after its first check (22 % of the steps) for an image
            whose missing loss exceeds this times what was gained; infinity for never.
        target: as in `OneStepTarget`: all runs go towards that class, and only it counts; None for any.
        early_stop: stop changing an image once it is adversarial; else its adversarial iterate of highest loss counts.

    Raises `InputError` for another norm, an option out of its range, images outside theirs, or a model that is not
    differentiable.
    Source: Croce and Hein 2020, algorithm 1 and section 3; targeted DLR: section 4.
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
        if threat.norm == "l1":
            raise InputError("APGD is made for linf and l2: for l1 use pgd with many steps, fab_t or fmn")
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
            start = torch.cat([sample(x, threat, draws)[rows] for _ in now])
            found = self._run(model, x[many], replace(objective.select(many), target=target), threat, start)
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

    def _run(self, model: nn.Module, x: Tensor, objective: Objective, threat: Threat, start: Tensor) -> Found:
        """One run from `start` for each image."""
        found = Found(
            start.clone(),
            torch.zeros(len(x), dtype=x.dtype, device=x.device),
            torch.zeros(len(x), dtype=torch.bool, device=x.device),
        )
        sought = None if self.target is None else objective.target
        run = Run.begin(x, objective, sought, start, self._gradient(model, start, objective), 2 * threat.eps)
        judges = self.eot == 1  # a pass of a randomised model is no verdict
        run = found.take_adversarial(run, model) if judges and self.early_stop else run
        checks = checkpoints(self.steps)
        first_check = min(checks)
        for number in range(1, self.steps + 1):
            if not len(run.rows):
                break
            run.move(threat, 1.0 if number == 1 else MOMENTUM)
            run.update(self._gradient(model, run.current.images, run.objective))
            due = success.should_check_success(number, x.device) or number == first_check
            if judges and (number == self.steps or (self.early_stop and due)):
                run = found.take_adversarial(run, model)  # always before runs are ended
            if number in checks:
                run.check(self.rho * checks[number])
                if number == first_check and get_loss(self.loss).zero_at_boundary:
                    hopeless = is_hopeless(run.first_values, run.best_values, self.termination_ratio)
                    hopeless &= ~(run.adversarial.found & judges)  # towards a target, any error counts
                    found.take_best(run.select(hopeless))
                    run = run.select(~hopeless)
        found.take_best(run)
        return found

    def _gradient(self, model: nn.Module, x: Tensor, objective: Objective) -> ValueAndGrad:
        return value_and_input_grad(model, x, objective, eot=self.eot)


def checkpoints(steps: int) -> dict[int, int]:
    """The steps after which the step size is checked, each with the steps since the last check (section 3.1)."""
    checkpoints, period, at = {}, max(int(0.22 * steps), 1), 0
    while (at := at + period) <= steps:
        checkpoints[at] = period
        period = max(period - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    return checkpoints
