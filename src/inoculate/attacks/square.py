"""Square attack: random squares of colour, kept where they help. It needs no gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.attacks import success
from inoculate.attacks._batching import full_batch
from inoculate.attacks.base import carry_out, refuse_l0
from inoculate.attacks.losses import Objective, logits_fp32
from inoculate.attacks.squares import Squares, lengthen, tiles
from inoculate.attacks.success import is_adversarial, verify_adversarial
from inoculate.attacks.targets import Target, build_objective, check_target
from inoculate.attacks.termination import check_termination_ratio, is_hopeless, outlook, stages
from inoculate.core.options import require_bool, require_count, require_fraction
from inoculate.core.rng import Draws
from inoculate.core.threat import Threat, per_sample, project
from inoculate.models.acceleration.fast import full_precision

Propose = Callable[[Tensor, Tensor, Tensor, Threat], Tensor]


@dataclass(frozen=True)
class Square:
    """Random search over squares of colour, by the margin loss; needs no gradient.

    For images B×C×H×W in the threat's range. All images share the same squares, which `generator` decides. Under a
    mask for all images the squares lie in the smallest rectangle around it; what they hold outside of a mask is left
    out.

    Options:
        queries: passes per image at most.
        p: fraction of the pixels that the first squares cover.
        rescale_schedule: whether the squares shrink over `queries`; else as over 10,000, whatever `queries` is, which
            is how AutoAttack uses this attack.
        termination_ratio: from 6 % of the queries on (`termination.STAGES`), an image is given up whose missing
            margin exceeds this times what was gained (a fifth of the queries; less later, see `outlook`); infinity for
            never.
        target: as in `OneStepTarget`: raise that class's margin, and only it counts; None for untargeted.
        early_stop: stop changing an image once it is adversarial.

    Raises `InputError` for an option out of its range, or images outside theirs.
    Source: Andriushchenko et al. 2020, algorithms 1 to 3. L1: Croce and Hein 2021.
    """

    queries: int = 5000
    p: float = 0.8
    termination_ratio: float = math.inf
    target: Target = None
    early_stop: bool = True
    rescale_schedule: bool = False

    def __post_init__(self) -> None:
        require_count(queries=self.queries)
        require_fraction(p=self.p)
        check_termination_ratio(self.termination_ratio)
        check_target(self.target)
        require_bool(early_stop=self.early_stop, rescale_schedule=self.rescale_schedule)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        refuse_l0("the Square attack", threat)

        def craft(x: Tensor, y: Tensor) -> Tensor:
            draws, part = Draws(x, generator), x[_box(threat)]
            squares = Squares(self.queries, self.p, part, generator, self.rescale_schedule)
            if threat.norm == "linf":
                stripes = draws.signs(x.shape[1], 1, part.shape[3]).to(x)
                start, propose = project(part + threat.eps * stripes, part, threat), squares.linf
            else:
                start, propose = tiles(part, threat, draws), squares.l2 if threat.norm == "l2" else squares.l1
            # Its steps are too small for the three digits of bf16.
            with torch.no_grad(), full_precision(model):
                objective = build_objective("margin", model, x, y, threat, self.target, generator)
                return self._search(model, x, objective, threat, _inside(start, x, objective, threat), propose)

        return carry_out(model, x, y, threat, craft)

    def with_early_stop(self) -> Square:
        """The same attack, which stops early."""
        return replace(self, early_stop=True)

    def without_early_stop(self) -> Square:
        """The same attack, which spends all its queries on every image."""
        return replace(self, early_stop=False)

    def shortened(self) -> Square:
        """The same attack with two queries."""
        return replace(self, queries=2)

    def _search(
        self, model: nn.Module, x: Tensor, objective: Objective, threat: Threat, start: Tensor, propose: Propose
    ) -> Tensor:
        """Keep each proposal that raises the objective; the last images, adversarial or not."""
        result = start.clone()
        logits = logits_fp32(model, start)
        state = _State.begin(x, objective, start, objective(logits).float())
        adversarial = is_adversarial(logits, objective.y, objective.target)
        done = verify_adversarial(model, start, adversarial, objective.y, objective.target)
        judged, passes = torch.tensor([*stages(self.queries, self.termination_ratio), self.queries]).to(objective.y), 0
        while True:
            if success.should_check_success(passes, x.device):
                if passes:
                    done = state.confirm(model)
                stop = state.hopeless | (state.queries >= self.queries)
                if self.early_stop:
                    stop |= done
                if stop.any():
                    result[state.rows[stop]] = state.x_adv[stop]
                    state = state.select(~stop)
                    if not len(state.rows):
                        return result
            self._try_squares(model, state, threat, propose, judged)
            passes += 1

    def _try_squares(self, model: nn.Module, state: _State, threat: Threat, propose: Propose, judged: Tensor) -> None:
        """Propose the next squares, keep the first that raises each image's objective, judge after queries `judged`.

        Few images fill a batch with several proposals each: all are compared with the same image, up to the first that
        helps, so the search is the same as one by one. For L2 and L1, whose squares depend on all before them, it is
        one each.
        """
        x = state.x
        most = 128 if x.is_cuda else 16
        ahead = max(1, min(most, full_batch(x) // 2 // len(x))) if threat.norm == "linf" else 1
        query = state.queries[:, None] + torch.arange(ahead, device=x.device)
        images = torch.arange(len(x), device=x.device)
        many, box = images.repeat_interleave(ahead), _box(threat)
        objective = state.objective.select(many)
        trial = propose(x[box], state.x_adv[box], query.clamp_max(self.queries - 1), threat)
        if objective.changeable is not None:
            trial = _inside(trial, x[many], objective, threat)
        values = objective(logits_fp32(model, trial)).float().view(-1, ahead)
        better = (values > state.values[:, None]) & (query < self.queries)
        helps, which = better.any(dim=1), better.int().argmax(dim=1)
        failed = (state.queries + torch.where(helps, which, ahead)).clamp_max(self.queries)
        state.hopeless = state.hopeless | self._is_hopeless(state, failed, judged)
        helps &= ~state.hopeless
        chosen = images * ahead + which
        state.x_adv = torch.where(per_sample(helps, x), trial[chosen], state.x_adv)
        state.values = torch.where(helps, values.flatten()[chosen], state.values)
        state.queries, state.changed = failed + helps, state.changed | helps
        state.hopeless = state.hopeless | self._is_hopeless(state, state.queries, judged)

    def _is_hopeless(self, state: _State, queries: Tensor, judged: Tensor) -> Tensor:
        """Which images (B, bool) to give up after so many `queries` (B), by the last judgement until then.

        An image that stood it once stands it again, because its objective does not fall.
        """
        last = torch.searchsorted(judged, queries, right=True) - 1
        ratio = self.termination_ratio * outlook(judged[last.clamp_min(0)].float(), self.queries)
        return (last >= 0) & is_hopeless(state.first_values, state.values, ratio)


def _box(threat: Threat) -> tuple[Any, ...]:
    """The part of the images where squares lie: around a mask that is the same for all, else everywhere.

    The squares are shared by the images of a batch, so that masks of their own must not decide about them.
    """
    shared = threat.mask is not None and not threat.mask.per_image
    return (..., *threat.mask.box()) if threat.mask is not None and shared else (...,)


def _inside(part: Tensor, x: Tensor, objective: Objective, threat: Threat) -> Tensor:
    """The images `x` with a proposal for the part of them that `_box` cuts out, inside the mask."""
    if objective.changeable is None:
        return part
    proposed = x.clone()
    proposed[_box(threat)] = part
    return lengthen(objective.inside(proposed, x), proposed, x, threat)


@dataclass
class _State:
    """The images that are still attacked (`rows` of the batch) and what belongs to them."""

    rows: Tensor
    x: Tensor
    x_adv: Tensor
    objective: Objective
    values: Tensor  # of the objective at `x_adv`
    first_values: Tensor  # at the start
    queries: Tensor  # squares tried so far
    changed: Tensor  # since the last check of success (B, bool)
    hopeless: Tensor

    @classmethod
    def begin(cls, x: Tensor, objective: Objective, start: Tensor, values: Tensor) -> _State:
        rows, queries = torch.arange(len(x), device=x.device), torch.zeros_like(objective.y)
        nothing = torch.zeros_like(objective.y, dtype=torch.bool)
        return cls(rows, x, start, objective, values, values, queries, nothing, nothing.clone())

    def confirm(self, model: nn.Module) -> Tensor:
        """Which of the images changed since the last call (B, bool) are adversarial, verified on the original model."""
        y, target = self.objective.y, self.objective.target
        adversarial = verify_adversarial(model, self.x_adv, self.changed & (self.values > 0), y, target)
        self.changed = torch.zeros_like(self.changed)
        return adversarial

    def select(self, keep: Tensor) -> _State:
        return _State(
            self.rows[keep], self.x[keep], self.x_adv[keep], self.objective.select(keep), self.values[keep],
            self.first_values[keep], self.queries[keep], self.changed[keep], self.hopeless[keep],
        )  # fmt: skip
