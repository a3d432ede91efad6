"""FAB: walk to the nearest decision boundary, along its tangents."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks._batching import runs_at_once
from inoculate.attacks._minimum_norm import anywhere, within
from inoculate.attacks.gradients import value_and_input_grad
from inoculate.attacks.losses import LOSSES, Loss, Objective, margin, target_minus_true
from inoculate.attacks.success import is_adversarial, verify_adversarial
from inoculate.attacks.targets import Target, check_target, resolve_targets, wrong_classes
from inoculate.attacks.termination import check_termination_ratio
from inoculate.core.options import require_count
from inoculate.core.rng import Draws
from inoculate.core.threat import Threat, distance, per_sample, sample, to_plane

ANY_ERROR = Loss(margin, target_minus_true)  # towards a class, but any other that comes first will do


@dataclass(frozen=True)
class FAB:
    """Fast adaptive boundary attack, targeted (Croce and Hein 2020b, algorithm 1): the nearest misclassified image.

    One run per image towards each of its `targets` most likely wrong classes. A step projects the iterate and the
    original onto the linearised boundary, overshoots by `eta` and mixes the two, at most `alpha` of the latter; a
    misclassified iterate is drawn back to `beta` of its distance. `restarts` after the first start at random.
    `termination_ratio`: under a fixed eps a run ends after a third of its steps for an image whose nearest error so far is more
    than `termination_ratio` times eps outside the ball; infinity never gives up. With a `target` (as in `OneStepTarget`) there is
    one run, onto the boundary where that class overtakes all others, and only an image that is taken for it counts.
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
        """The first misclassified image found within eps, else the nearest one found, projected."""
        return within(model, x, y, threat, lambda x, y: self._search(model, x, y, threat, generator, enough=threat.eps))

    def closest(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The nearest misclassified image found, at any distance; the image itself where none was, or no need to look.

        Of `threat` norm and range matter, and eps as the radius of random starts.
        """
        return anywhere(model, x, y, threat, lambda x, y: self._search(model, x, y, threat, generator, enough=-1.0))

    def shortened(self) -> FAB:
        """The same attack with two steps."""
        return replace(self, steps=2)

    def _search(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        generator: torch.Generator | None,
        enough: float,
    ) -> Tensor:
        """Nearest misclassified images; one within `enough` is settled."""
        with torch.no_grad():
            logits = model(x)
        nearest, far = x.clone(), torch.full(y.shape, torch.inf, dtype=x.dtype, device=x.device)
        sought = resolve_targets(model, x, y, self.target, generator)
        rows = (~verify_adversarial(model, x, is_adversarial(logits, y, sought), y, sought)).nonzero().squeeze(1)
        order = wrong_classes(logits, y) if sought is None else sought[:, None]
        draws = Draws(x, generator) if self.restarts > 1 else None
        starts = [x]
        for _ in range(1, self.restarts):
            assert draws is not None
            starts.append(sample(x, Threat(threat.norm, threat.eps / 2, threat.low, threat.high), draws))
        runs = [(start, rank) for start in starts for rank in range(min(self.targets, order.shape[1]))]
        while runs and len(rows):
            now = runs[: runs_at_once(x, len(rows))]
            runs = runs[len(now) :]
            many = rows.repeat(len(now))
            target = torch.cat([order[rows, rank] for _, rank in now])
            goal = Objective(ANY_ERROR if sought is None else LOSSES["margin"], y[many], target)
            start = torch.cat([start[rows] for start, _ in now])
            found = self._run(model, x[many], goal, threat, start, far[many], enough, len(rows))
            for x_adv, at in zip(*(torch.split(part, len(rows)) for part in found), strict=True):
                nearer = at < far[rows]
                nearest[rows[nearer]], far[rows[nearer]] = x_adv[nearer], at[nearer]
            rows = rows[far[rows] > enough]
        return nearest

    def _run(
        self,
        model: nn.Module,
        x: Tensor,
        goal: Objective,
        threat: Threat,
        start: Tensor,
        far: Tensor,
        enough: float,
        images: int,
    ) -> tuple[Tensor, Tensor]:
        """Walk to where `goal` is 0: the nearest images on the way that arrived, and their distance (`far` if none).

        The batch holds the same `images` once per target: one that is settled towards any of them leaves all.
        """
        result, best = x.clone(), far.clone()
        rows, x_adv = torch.arange(len(x), device=x.device), start
        beyond = torch.zeros(len(x), dtype=torch.bool, device=x.device)  # there at the last step: likely again
        for number in range(self.steps + 1):
            wrong = torch.zeros_like(beyond)
            if number == self.steps:
                beyond = torch.ones_like(beyond)
            if beyond.any():  # a look without gradient: where it finds an error, the gradient is wanted further back
                with torch.no_grad():
                    wrong[beyond] = self._there(model(x_adv[beyond]), goal.select(beyond))
            x_adv, keep = self._take(model, x, goal, x_adv, wrong, threat, result, best, rows, enough)
            if number < self.steps:
                gap, normal, logits = value_and_input_grad(model, x_adv, goal)
                late = ~beyond & keep & self._there(logits, goal) & bool(number)
                if late.any():
                    x_adv, still = self._take(model, x, goal, x_adv, late, threat, result, best, rows, enough)
                    keep, again = keep & still, late & still
                    if again.any():
                        gap, normal = gap.clone(), normal.clone()
                        gap[again], normal[again], _ = value_and_input_grad(model, x_adv[again], goal.select(again))
                beyond = wrong | late
            if enough >= 0:
                keep &= ~(best <= enough).view(-1, images).any(0)[rows % images]
            if enough >= 0 and number == -(-self.steps // 3):
                keep &= best[rows] <= (1 + self.termination_ratio) * enough
            if number == self.steps or not keep.any():
                break
            if not keep.all():
                rows, x, goal, beyond = rows[keep], x[keep], goal.select(keep), beyond[keep]
                x_adv, gap, normal = x_adv[keep], gap[keep], normal[keep]
            # The plane where the linearised gap is closed: gap + normal · (z − x_adv) = 0.
            here = to_plane(x_adv, normal, -gap, threat)
            home = to_plane(x, normal, (normal * (x_adv - x)).flatten(1).sum(1) - gap, threat)
            size_here, size_home = (_length(move, threat) for move in (here, home))
            share = per_sample((size_here / (size_here + size_home)).clamp(0, self.alpha), x)
            mixed = (x_adv + self.eta * here) * (1 - share) + (x + self.eta * home) * share
            x_adv = mixed.clamp(threat.low, threat.high)
        return result, best

    def _take(
        self,
        model: nn.Module,
        x: Tensor,
        goal: Objective,
        x_adv: Tensor,
        wrong: Tensor,
        threat: Threat,
        result: Tensor,
        best: Tensor,
        rows: Tensor,
        enough: float,
    ) -> tuple[Tensor, Tensor]:
        """Note the misclassified iterates that are nearer than before and draw them back towards their images.

        Returns the new iterates and which images (B, bool) are not settled yet. Under a fixed eps (`enough`) nothing
        beyond it is worth the original's confirmation.
        """
        if not wrong.any():
            return x_adv, torch.ones_like(wrong)
        at = distance(x_adv, x, threat.norm)
        nearer = wrong & (at < best[rows])
        counts = nearer & (at <= enough) if enough >= 0 else nearer
        nearer = nearer & (~counts | verify_adversarial(model, x_adv, counts, goal.y, self._sought(goal)))
        result[rows[nearer]], best[rows[nearer]] = x_adv[nearer], at[nearer]
        keep = best[rows] > enough
        return torch.where(per_sample(wrong, x), x + self.beta * (x_adv - x), x_adv), keep

    def _there(self, logits: Tensor, goal: Objective) -> Tensor:
        return is_adversarial(logits, goal.y, self._sought(goal))

    def _sought(self, goal: Objective) -> Tensor | None:
        """The only class that counts for each image, if there is one."""
        return None if self.target is None else goal.target


def _length(move: Tensor, threat: Threat) -> Tensor:
    return distance(move, torch.zeros_like(move), threat.norm).clamp_min(1e-8)
