"""Sparse-RS: random search over few pixels and their colours. It needs no gradient."""

from __future__ import annotations

import random
from bisect import bisect_left
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks import success
from inoculate.attacks._batching import full_batch
from inoculate.attacks.base import carry_out, require_l0
from inoculate.attacks.losses import Objective, logits_fp32
from inoculate.attacks.success import verify_adversarial
from inoculate.attacks.targets import Target, build_objective, check_target
from inoculate.core.options import require_bool, require_count, require_fraction
from inoculate.core.rng import Draws, drawn_seed
from inoculate.core.threat import Threat, per_sample
from inoculate.models.acceleration.fast import full_precision

RECOLOUR = 16  # a pixel in its place with a wrong colour would stay as it is: the others are worse


@dataclass(frozen=True)
class SparseRS:
    """Random search over eps pixels, each in a corner of the colour cube, by the margin loss; needs no gradient.

    For images B×C×H×W in the threat's range, norm l0. A query exchanges some of the pixels for others of random
    colours; which ones, the `generator` decides, for all images alike. Each image starts from random pixels of its own.
    Beyond the paper, every 16th exchange of a single pixel only changes its colour. At eps 1 this is a one-pixel attack
    (Su et al. 2019), by random search instead of differential evolution.

    Options:
        queries: passes per image at most.
        alpha: fraction of the pixels that the first queries exchange, halved at once and lowered later.
        target: as in `OneStepTarget`: raise that class's margin, and only it counts; None for untargeted.
        early_stop: stop changing an image once it is adversarial.

    Raises `InputError` for another norm, an option out of its range, or images outside theirs.
    Source: Croce et al. 2022, algorithm 1, with the schedule of section 4.
    """

    queries: int = 5000
    alpha: float = 0.3
    target: Target = None
    early_stop: bool = True

    def __post_init__(self) -> None:
        require_count(queries=self.queries)
        require_fraction(alpha=self.alpha)
        check_target(self.target)
        require_bool(early_stop=self.early_stop)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        require_l0("Sparse-RS", threat)

        def craft(x: Tensor, y: Tensor) -> Tensor:
            if not threat.eps or x.shape[2] * x.shape[3] < 2:
                return x.clone()
            # A colour alone changes the logits little: bf16 would not show it.
            with torch.no_grad(), full_precision(model):
                objective = build_objective("margin", model, x, y, threat, self.target, generator)
                return self._search(model, x, objective, Swaps(self, x, threat, generator), Draws(x, generator))

        return carry_out(model, x, y, threat, craft)

    def with_early_stop(self) -> SparseRS:
        """The same attack, which stops early."""
        return replace(self, early_stop=True)

    def without_early_stop(self) -> SparseRS:
        """The same attack, which spends all its queries on every image."""
        return replace(self, early_stop=False)

    def shortened(self) -> SparseRS:
        """The same attack with two queries."""
        return replace(self, queries=2)

    def _search(self, model: nn.Module, x: Tensor, objective: Objective, swaps: Swaps, draws: Draws) -> Tensor:
        """Keep each exchange that raises the objective; the last images, adversarial or not."""
        places = draws.uniform(x.shape[2] * x.shape[3])
        if objective.changeable is not None:  # pixels that may change come first
            places = places - objective.changeable.any(dim=1).flatten(1).to(places)
        order = places.argsort(dim=1)
        start = objective.inside(swaps.begin(x, order, draws), x)
        state = _State.begin(x, start, order, objective, objective(logits_fp32(model, start)).float())
        result, passes = start.clone(), 0
        while True:
            if success.should_check_success(passes, x.device) or not passes:
                done = state.confirm(model)
                stop = state.queries >= self.queries
                stop = stop | done if self.early_stop else stop
                if stop.any():
                    result[state.rows[stop]] = state.x_adv[stop]
                    state = state.select(~stop)
                    if not len(state.rows):
                        return result
            self._try_swaps(model, state, swaps)
            passes += 1

    def _try_swaps(self, model: nn.Module, state: _State, swaps: Swaps) -> None:
        """Propose the next exchanges, and keep the first that raises each image's objective.

        Few images fill a batch with several proposals each: all are compared with the same image, up to the first that
        helps, so the search is the same as one by one.
        """
        x = state.x
        ahead = max(1, min(128 if x.is_cuda else 16, full_batch(x) // 2 // len(x)))
        query = state.queries[:, None] + torch.arange(ahead, device=x.device)
        images = torch.arange(len(x), device=x.device)
        many, asked = images.repeat_interleave(ahead), query.flatten().clamp_max(self.queries - 1)
        objective = state.objective.select(many)
        trial = objective.inside(swaps.propose(x[many], state.x_adv[many], state.order[many], asked), x[many])
        values = objective(logits_fp32(model, trial)).float().view(-1, ahead)
        better = (values > state.values[:, None]) & (query < self.queries)
        helps, which = better.any(dim=1), better.int().argmax(dim=1)
        chosen = images * ahead + which
        state.x_adv = torch.where(per_sample(helps, x), trial[chosen], state.x_adv)
        state.order = torch.where(helps[:, None], swaps.exchange(state.order, asked[chosen]), state.order)
        state.values = torch.where(helps, values.flatten()[chosen], state.values)
        state.queries = torch.where(helps, state.queries + which + 1, state.queries + ahead)
        state.changed = state.changed | helps


class Swaps:
    """The exchanges of each query, shared by all images and decided by the generator.

    The first `count` entries of an image's `order` (B×H·W, a permutation of its pixels) are the changed ones. A query
    exchanges some of them for some of the others, which get random colours. A single pixel that has its colour already
    gets another. Every `RECOLOUR`-th exchange of a single pixel is with itself, to change its colour.
    """

    def __init__(self, options: SparseRS, x: Tensor, threat: Threat, generator: torch.Generator | None) -> None:
        self.low, self.high = threat.low, threat.high
        pixels, channels = x.shape[2] * x.shape[3], x.shape[1]
        self.count = min(int(threat.eps), pixels - 1)
        draw = random.Random(drawn_seed(generator))
        first = options.alpha * self.count
        sizes = [
            min(max(int(first * schedule(query, options.queries)), 1), pixels - self.count)
            for query in range(options.queries)
        ]
        most = max(sizes)

        def padded(found: list[int]) -> list[int]:
            return found + found[:1] * (most - len(found))  # the first again does nothing more

        def places(first: int, end: int) -> Tensor:
            return torch.tensor([padded(draw.sample(range(first, end), size)) for size in sizes], device=x.device)

        self.leaving, self.entering = places(0, self.count), places(self.count, pixels)
        self.single = torch.tensor([size == 1 for size in sizes], device=x.device)
        recolours = self.single & (torch.arange(options.queries, device=x.device) % RECOLOUR == 0)
        self.entering = torch.where(recolours[:, None], self.leaving, self.entering)
        colours = torch.tensor([padded([draw.getrandbits(channels) for _ in range(size)]) for size in sizes])
        flips = torch.tensor([[draw.randrange(1, 2**channels)] for _ in sizes])
        self.colours, self.others = self._values(colours, x), self._values(colours ^ flips, x)

    def begin(self, x: Tensor, order: Tensor, draws: Draws) -> Tensor:
        """The images `x` with their first pixels in random colours."""
        bits = draws.signs(x.shape[1], self.count).to(x) > 0
        return _with_pixels(x, order[:, : self.count], torch.where(bits, self.high, self.low).to(x))

    def propose(self, x: Tensor, x_adv: Tensor, order: Tensor, queries: Tensor) -> Tensor:
        """The images `x_adv` after the exchange of the queries (B)."""
        leaving, entering = self._pixels(order, queries)
        colours, others = self.colours[queries], self.others[queries]
        same = (_pixels_of(x_adv, entering) == colours).all(dim=1, keepdim=True) & self.single[queries][:, None, None]
        restored = _with_pixels(x_adv, leaving, _pixels_of(x, leaving))
        return _with_pixels(restored, entering, torch.where(same, others, colours))

    def exchange(self, order: Tensor, queries: Tensor) -> Tensor:
        """The order of the pixels after the exchange of the queries (B)."""
        leaving, entering = self._pixels(order, queries)
        places = torch.cat([self.leaving[queries], self.entering[queries]], dim=1)
        return order.scatter(1, places, torch.cat([entering, leaving], dim=1))

    def _pixels(self, order: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Which pixels (B×n) leave and enter."""
        return order.gather(1, self.leaving[queries]), order.gather(1, self.entering[queries])

    def _values(self, numbers: Tensor, x: Tensor) -> Tensor:
        """The corners of the colour cube (n×C×m) with these numbers (n×m)."""
        bits = numbers[:, None] >> torch.arange(x.shape[1])[:, None] & 1
        return torch.where(bits > 0, self.high, self.low).to(x)


def schedule(query: int, queries: int) -> float:
    """How many pixels to exchange at this query, relative to the first (for 10,000 queries in the reference code)."""
    bounds, divisors = (0, 50, 200, 500, 1000, 2000, 4000, 6000, 8000), (1, 2, 4, 5, 6, 8, 10, 12, 15, 20)
    return 1 / divisors[bisect_left(bounds, int(query / queries * 10_000))]


def _pixels_of(x: Tensor, places: Tensor) -> Tensor:
    """The values (B×C×n) of the pixels at these places (B×n, in reading order)."""
    return x.flatten(2).gather(2, places[:, None].expand(-1, x.shape[1], -1))


def _with_pixels(x: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """The images with these values (B×C×n) at these places (B×n)."""
    return x.flatten(2).scatter(2, places[:, None].expand(-1, x.shape[1], -1), values).view_as(x)


@dataclass
class _State:
    """The images that are still attacked (`rows` of the batch) and what belongs to them."""

    rows: Tensor
    x: Tensor
    x_adv: Tensor
    order: Tensor  # of the pixels, the changed ones first
    objective: Objective
    values: Tensor  # of the objective at `x_adv`
    queries: Tensor  # made so far
    changed: Tensor  # since the last check of success (B, bool)

    @classmethod
    def begin(cls, x: Tensor, start: Tensor, order: Tensor, objective: Objective, values: Tensor) -> _State:
        rows, queries = torch.arange(len(x), device=x.device), torch.ones_like(objective.y)
        return cls(rows, x, start, order, objective, values, queries, torch.ones_like(values, dtype=torch.bool))

    def confirm(self, model: nn.Module) -> Tensor:
        """Which of the images changed since the last call (B, bool) are adversarial, verified on the original model."""
        y, target = self.objective.y, self.objective.target
        adversarial = verify_adversarial(model, self.x_adv, self.changed & (self.values > 0), y, target)
        self.changed = torch.zeros_like(self.changed)
        return adversarial

    def select(self, keep: Tensor) -> _State:
        return _State(
            self.rows[keep], self.x[keep], self.x_adv[keep], self.order[keep], self.objective.select(keep),
            self.values[keep], self.queries[keep], self.changed[keep],
        )  # fmt: skip
