"""FAB: walk to the nearest decision boundary, along its tangents."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks._batching import runs_at_once
from inoculate.attacks._minimum_norm import NearestAdversarial, find_nearest, find_within
from inoculate.attacks.base import refuse_l0
from inoculate.attacks.gradients import ValueAndGrad, value_and_input_grad
from inoculate.attacks.losses import LOSSES, Loss, Objective, logits_fp32, margin, target_minus_true
from inoculate.attacks.success import is_adversarial, verify_adversarial
from inoculate.attacks.targets import Target, check_target, resolve_targets, wrong_classes
from inoculate.attacks.termination import check_termination_ratio, outlook, stages
from inoculate.core.options import require_count
from inoculate.core.rng import Draws
from inoculate.core.threat import Threat, distance, per_sample, sample, step_to_hyperplane

ANY_ERROR = Loss(margin, target_minus_true)  # the boundary with one class, but any error on the way counts


@dataclass(frozen=True)
class FAB:
    """The nearest adversarial image, by steps onto the linearised boundary with each of the likeliest wrong classes.

    For images B×C×H×W in the threat's range, norms linf, l2 and l1; the targeted version, FAB-T. A step projects the
    iterate and the original onto the linearised boundary, overshoots by `eta` and mixes the two; an adversarial iterate
    is drawn back towards the original.

    Options:
        steps: steps of a run.
        targets: one run towards each of this many most likely wrong classes.
        restarts: starts of each run; all but the first are random.
        alpha: largest weight of the original's projection in the mix (the paper's α_max).
        eta: overshoot factor.
        beta: an adversarial iterate is drawn back to this fraction of its distance.
        termination_ratio: under a fixed eps, a run is judged from 6 % of its steps on (`termination.STAGES`). It
            ends for an image whose nearest adversarial one is further outside the ball than this ratio times eps (a
            fifth of the steps; less later, see `outlook`); infinity for never.
        target: as in `OneStepTarget`: one run, onto the boundary where that class overtakes all others; only it counts.

    Raises `InputError` for an option out of its range, images outside theirs, or a model that is not differentiable.
    Source: Croce and Hein 2020b, algorithm 1.
    """

    steps: int = 100
    targets: int = 9
    restarts: int = 1
    alpha: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    termination_ratio: float = math.inf
    target: Target = None

    def __post_init__(self) -> None:
        require_count(steps=self.steps, restarts=self.restarts, targets=self.targets)
        check_termination_ratio(self.termination_ratio)
        check_target(self.target)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The first adversarial image found within eps, else the nearest one found, projected."""
        refuse_l0("FAB", threat)
        search = _Search(self, model, threat, radius=threat.eps)
        return find_within(model, x, y, threat, lambda x, y: search(x, y, generator))

    def closest(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The nearest adversarial image found, at any distance; the image itself where none was, or none was needed.

        Of `threat` norm and range matter, and eps as twice the radius of random starts.
        """
        refuse_l0("FAB", threat)
        search = _Search(self, model, threat, radius=None)
        return find_nearest(model, x, y, threat, lambda x, y: search(x, y, generator))

    def shortened(self) -> FAB:
        """The same attack with two steps."""
        return replace(self, steps=2)


@dataclass
class _Runs:
    """The runs of a batch that still go on: `rows` are their places in `nearest`, which holds what all have found.

    The batch holds the same `images` once per target.
    """

    rows: Tensor
    x: Tensor
    x_adv: Tensor
    objective: Objective
    expected: Tensor  # adversarial at the last step, so likely at this one (B, bool)
    reached: Tensor  # the least distance at which this run was adversarial (B)
    nearest: NearestAdversarial
    images: int

    def select(self, keep: Tensor) -> _Runs:
        return _Runs(
            self.rows[keep], self.x[keep], self.x_adv[keep], self.objective.select(keep), self.expected[keep],
            self.reached[keep], self.nearest, self.images,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Search:
    """The search on one model. An adversarial image within `radius` settles its image; None: search to the end."""

    options: FAB
    model: nn.Module
    threat: Threat
    radius: float | None

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
        """The nearest adversarial images."""
        options = self.options
        with torch.no_grad():
            logits = logits_fp32(self.model, x)
        nearest = NearestAdversarial(x.clone(), torch.full(y.shape, torch.inf, dtype=x.dtype, device=x.device))
        fixed = resolve_targets(self.model, x, y, options.target, generator)
        adversarial = verify_adversarial(self.model, x, is_adversarial(logits, y, fixed), y, fixed)
        rows = (~adversarial).nonzero().squeeze(1)
        order = wrong_classes(logits, y) if fixed is None else fixed[:, None]
        runs = [
            (start, target)
            for start in self._starts(x, generator)
            for target in order[:, : options.targets].unbind(dim=1)
        ]
        loss = ANY_ERROR if fixed is None else LOSSES["margin"]
        objective = Objective(loss, y, changeable=self.threat.changeable(x))
        while runs and len(rows):
            now = runs[: runs_at_once(x, len(rows))]
            runs = runs[len(now) :]
            many = rows.repeat(len(now))
            towards = replace(objective.select(many), target=torch.cat([target[rows] for _, target in now]))
            start = torch.cat([start[rows] for start, _ in now])
            found = self._run(_begin(x[many], start, towards, nearest.distances[many], len(rows)))
            parts = (torch.split(part, len(rows)) for part in (found.images, found.distances))
            for x_adv, distances in zip(*parts, strict=True):
                nearest.put(rows, x_adv, distances, distances < nearest.distances[rows])
            rows = rows[~self._is_settled(nearest.distances[rows])]
        return nearest.images

    def _starts(self, x: Tensor, generator: torch.Generator | None) -> list[Tensor]:
        """The images themselves, then random points within half of eps."""
        if self.options.restarts == 1:
            return [x]
        draws, near = Draws(x, generator), replace(self.threat, eps=self.threat.eps / 2)
        return [x, *(sample(x, near, draws) for _ in range(1, self.options.restarts))]

    def _run(self, runs: _Runs) -> NearestAdversarial:
        """Walk to where the objective is 0: the nearest adversarial images on the way."""
        nearest, steps, ratio = runs.nearest, self.options.steps, self.options.termination_ratio
        judged = stages(steps, ratio)
        for number in range(steps):
            keep, passed = self._pass(runs, first=number == 0)
            if self.radius is not None:
                # An image that is settled towards any target leaves all runs.
                settled = self._is_settled(nearest.distances).view(-1, runs.images).any(0)
                keep &= ~settled[runs.rows % runs.images]
                if number in judged:
                    keep &= runs.reached <= (1 + ratio * outlook(float(number), steps)) * self.radius
            if not keep.any():
                return nearest
            if not keep.all():
                runs, passed = runs.select(keep), ValueAndGrad(*(part[keep] for part in passed))
            runs.x_adv = self._step(runs, passed)
        runs.expected = torch.ones_like(runs.expected)
        self._record(runs, self._check_expected(runs))
        return nearest

    def _pass(self, runs: _Runs, first: bool) -> tuple[Tensor, ValueAndGrad]:
        """Record adversarial iterates, draw them back, and differentiate at the new ones.

        Where the last iterate was adversarial, a check without gradient comes first, as the gradient is wanted further
        back. Returns which images (B, bool) are not settled yet, and the pass.
        """
        early = self._check_expected(runs)
        keep = self._record(runs, early)
        passed = value_and_input_grad(self.model, runs.x_adv, runs.objective)
        late = ~runs.expected & keep & self._is_adversarial(passed.logits, runs.objective) & (not first)
        if late.any():
            keep = keep & self._record(runs, late)
            again = late & keep
            if again.any():
                values, gradient = passed.values.clone(), passed.gradient.clone()
                values[again], gradient[again], _ = value_and_input_grad(
                    self.model, runs.x_adv[again], runs.objective.select(again)
                )
                passed = ValueAndGrad(values, gradient, passed.logits)
        runs.expected = early | late
        return keep, passed

    def _check_expected(self, runs: _Runs) -> Tensor:
        """Which of the images expected to be adversarial (B, bool) are."""
        adversarial, expected = torch.zeros_like(runs.expected), runs.expected
        if expected.any():
            with torch.no_grad():
                logits = logits_fp32(self.model, runs.x_adv[expected])
            adversarial[expected] = self._is_adversarial(logits, runs.objective.select(expected))
        return adversarial

    def _record(self, runs: _Runs, adversarial: Tensor) -> Tensor:
        """Store the adversarial iterates that are nearer than before, and draw all of them back to their images.

        Returns which images (B, bool) are not settled yet. Under a radius nothing beyond it is worth the original's
        verification.
        """
        if not adversarial.any():
            return torch.ones_like(adversarial)
        distances = distance(runs.x_adv, runs.x, self.threat.norm)
        runs.reached = torch.where(adversarial, runs.reached.minimum(distances), runs.reached)
        nearer = adversarial & (distances < runs.nearest.distances[runs.rows])
        counts = nearer if self.radius is None else nearer & (distances <= self.radius)
        y, sought = runs.objective.y, self._sought(runs.objective)
        nearer = nearer & (~counts | verify_adversarial(self.model, runs.x_adv, counts, y, sought))
        runs.nearest.put(runs.rows, runs.x_adv, distances, nearer)
        rows = adversarial.nonzero().squeeze(1)
        x = runs.x[rows]
        runs.x_adv = runs.x_adv.index_copy(0, rows, x + self.options.beta * (runs.x_adv[rows] - x))
        return ~self._is_settled(runs.nearest.distances[runs.rows])

    def _step(self, runs: _Runs, passed: ValueAndGrad) -> Tensor:
        """The next iterates: iterate and original on the linearised boundary, value + gradient · (z − x_adv) = 0."""
        x, x_adv, value, gradient = runs.x, runs.x_adv, passed.values, passed.gradient
        from_iterate = step_to_hyperplane(x_adv, gradient, -value, self.threat)
        from_image = step_to_hyperplane(x, gradient, (gradient * (x_adv - x)).flatten(1).sum(1) - value, self.threat)
        nowhere = torch.zeros((), dtype=x.dtype, device=x.device)
        lengths = [distance(step, nowhere, self.threat.norm).clamp_min(1e-8) for step in (from_iterate, from_image)]
        weight = per_sample((lengths[0] / (lengths[0] + lengths[1])).clamp(0, self.options.alpha), x)
        eta = self.options.eta
        mixed = (x_adv + eta * from_iterate) * (1 - weight) + (x + eta * from_image) * weight
        return runs.objective.inside(mixed.clamp(self.threat.low, self.threat.high), x)

    def _is_settled(self, distances: Tensor) -> Tensor:
        return distances <= (-1.0 if self.radius is None else self.radius)

    def _is_adversarial(self, logits: Tensor, objective: Objective) -> Tensor:
        return is_adversarial(logits, objective.y, self._sought(objective))

    def _sought(self, objective: Objective) -> Tensor | None:
        """The only class that counts for each image, if there is one."""
        return None if self.options.target is None else objective.target


def _begin(x: Tensor, start: Tensor, objective: Objective, distances: Tensor, images: int) -> _Runs:
    """Runs from `start`; what they find must be nearer than `distances` (B)."""
    nothing = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    nearest = NearestAdversarial(x.clone(), distances.clone())
    nowhere = torch.full_like(distances, torch.inf)
    return _Runs(torch.arange(len(x), device=x.device), x, start, objective, nothing, nowhere, nearest, images)
