"""What attacks share that see only the class which a model gives an image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.attacks._batching import MOST, full_batch
from inoculate.attacks._minimum_norm import NearestAdversarial, NearestSearch
from inoculate.attacks.losses import Objective
from inoculate.attacks.success import is_adversarial_class
from inoculate.core.calls import predicted_classes
from inoculate.core.errors import InputError
from inoculate.core.rng import Draws
from inoculate.core.threat import Norm, Threat, distance, per_sample, project
from inoculate.models.acceleration.fast import original

STARTS, ATTEMPTS = 4, 100  # adversarial images to start from, of which the nearest is kept; random images tried for one
HALVINGS = 12  # of the line from an image to an adversarial one
NEAR = 4.0  # of a probe for the normal, times the distance from the image over the number of its values
BLOCK = 2**16  # random numbers drawn at once for an image


@dataclass(frozen=True, eq=False)
class Decisions:
    """Says which images are adversarial to a model, and counts the queries of each image of a batch (B).

    `budget` is the most that an image may take.
    """

    model: nn.Module
    objective: Objective
    made: Tensor
    threat: Threat
    budget: int
    at_once: int

    @classmethod
    def begin(cls, model: nn.Module, x: Tensor, objective: Objective, threat: Threat, budget: int) -> Decisions:
        """For the images `x`, of which one query each was made: whether they are adversarial as they are."""
        at_once = max(len(x), min(full_batch(x), MOST * len(x)))
        return cls(model, objective, torch.ones_like(objective.y), threat, budget, at_once)

    def __call__(self, images: Tensor, rows: Tensor) -> Tensor:
        """Which of these `images` (R×C×H×W), made from the images `rows` (R), are adversarial (R, bool)."""
        self.made.index_add_(0, rows, torch.ones_like(rows))
        with torch.no_grad():
            predicted = torch.cat([predicted_classes(self.model, part) for part in torch.split(images, self.at_once)])
        target = self.objective.target
        return is_adversarial_class(predicted, self.objective.y[rows], None if target is None else target[rows])

    def affordable(self, rows: Tensor, queries: int) -> Tensor:
        """Those of the images `rows` that may still make so many queries."""
        return rows[self.may(rows, queries)]

    def may(self, rows: Tensor, queries: int) -> Tensor:
        """Which of the images `rows` (R, bool) may still make so many queries."""
        return self.made[rows] + queries <= self.budget


@dataclass(frozen=True, eq=False)
class Points:
    """Points at the boundary, of the images `rows` (R) of the batch: `x` and `boundary` are R×C×H×W."""

    decide: Decisions
    rows: Tensor
    x: Tensor
    boundary: Tensor

    @property
    def threat(self) -> Threat:
        """Norm and range."""
        return self.decide.threat

    def adversarial(self, images: Tensor) -> Tensor:
        """Which of these images (R×C×H×W), one for each point, are adversarial (R, bool)."""
        return self.decide(images, self.rows)

    def select(self, which: Tensor) -> Points:
        """Some of the points."""
        return Points(self.decide, self.rows[which], self.x[which], self.boundary[which])

    @property
    def length(self) -> Tensor:
        """The distance (R) of each point from its image, in the norm of the threat."""
        return distance(self.boundary, self.x, self.threat.norm)


class LabelsOnlySearch(NearestSearch):
    """A search that asks for labels alone, and so always the original of a `fast` copy: a gradient is not needed."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return super().__call__(original(model), x, y, threat, generator=generator)

    def closest(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return super().closest(original(model), x, y, threat, generator=generator)


def made_for(name: str, norms: str, norm: Norm) -> InputError:
    """The error for an attack of this name in another norm; it says which attack to use."""
    instead = {"linf": "use rays or hopskipjump", "l2": "use hopskipjump"}
    return InputError(f"{name} is made for {norms}: for {norm} {instead.get(norm, 'no attack makes do with labels')}")


Move = Callable[[Points, Tensor, int], Tensor]  # (points, normals, number of the move) -> the next points


def walk_along_boundary(
    decide: Decisions, x: Tensor, generator: torch.Generator | None, samples: int, move: Move, most: int
) -> Tensor:
    """The nearest adversarial image to each of `x` on a walk along the boundary; the image itself where none was found.

    At its point number n, `samples` · √n queries estimate the normal of the boundary (R×C×H×W, into the adversarial
    side); `move`, by at most `most` queries, leads to the next point.
    """
    streams, nearest = Draws(x, generator).streams(), NearestAdversarial.none_yet(x)
    for _ in range(STARTS):
        _start(decide, x, streams, nearest)
    boundary, number = nearest.images.clone(), 1
    rows = nearest.distances.isfinite().nonzero().squeeze(1)
    while True:
        count = int(samples * math.sqrt(number))
        rows = decide.affordable(rows, count + most)
        if not len(rows):
            return nearest.images
        points = Points(decide, rows, x[rows], boundary[rows])
        normals = estimate_normals(points, [streams[row] for row in rows.tolist()], count)
        boundary[rows] = move(points, normals, number)
        _note(nearest, rows, boundary[rows], x, decide.threat.norm)
        number += 1


def _start(decide: Decisions, x: Tensor, streams: list[torch.Generator], nearest: NearestAdversarial) -> None:
    """Take in a random adversarial image for each of `x`, and the last adversarial point on the line to it."""
    images, rows = random_adversarial(decide, x, streams)
    _note(nearest, rows, images[rows], x, decide.threat.norm)
    rows = decide.affordable(rows, HALVINGS)
    if len(rows):
        points = Points(decide, rows, x[rows], images[rows])
        _note(nearest, rows, bisect(points, images[rows]), x, decide.threat.norm)


def _note(nearest: NearestAdversarial, rows: Tensor, x_adv: Tensor, x: Tensor, norm: Norm) -> None:
    """Take in adversarial images of these rows."""
    nearest.update(rows, x_adv, distance(x_adv, x[rows], norm), torch.ones_like(rows, dtype=torch.bool))


def random_adversarial(decide: Decisions, x: Tensor, streams: list[torch.Generator]) -> tuple[Tensor, Tensor]:
    """An adversarial image for each of `x` (B×C×H×W), and the rows for which there is one.

    Uniform noise: a value for each pixel, for a block of 4×4, for a quarter of the image, for all of it, in turn.
    """
    height, width = x.shape[2:]
    grids = [(height, width), (-(-height // 4), -(-width // 4)), (2, 2), (1, 1)]
    images, missing = x.clone(), torch.arange(len(x), device=x.device)
    found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    low, high = decide.threat.low, decide.threat.high
    for attempt in range(ATTEMPTS):
        missing = decide.affordable(missing, 1)
        if not len(missing):
            break
        shape = (x.shape[1], *grids[attempt % len(grids)])
        noise = torch.stack([torch.rand(shape, generator=streams[row]) for row in missing.tolist()])
        noise = low + (high - low) * F.interpolate(noise, size=(height, width)).to(x)
        noise = decide.objective.select(missing).inside(noise, x[missing])
        adversarial = decide(noise, missing)
        images[missing[adversarial]], found[missing[adversarial]] = noise[adversarial], True
        missing = missing[~adversarial]
    return images, found.nonzero().squeeze(1)


def bisect(points: Points, ends: Tensor) -> Tensor:
    """The last adversarial image on the way from each image to `ends` (R×C×H×W), which are adversarial.

    The way leads through the nearest points of growing balls around the image: in L2 a straight line.
    """
    wrong = distance(ends, points.x, points.threat.norm)
    right = torch.zeros_like(wrong)
    for _ in range(HALVINGS):
        middle = (right + wrong) / 2
        images = project(ends, points.x, points.threat, middle)
        adversarial = points.adversarial(images)
        ends = torch.where(per_sample(adversarial, ends), images, ends)
        right, wrong = torch.where(adversarial, right, middle), torch.where(adversarial, middle, wrong)
    return ends


def estimate_normals(points: Points, streams: list[torch.Generator], count: int) -> Tensor:
    """The normals of the boundary at the points, R×C×H×W, from the decisions on `count` images near each.

    The covariance of decision and direction (Chen et al. 2020, equations 9 and 16). Where all decisions are the same,
    the mean direction with their sign.
    """
    x, shape = points.boundary, points.x.shape[1:]
    size, block = shape.numel(), max(1, BLOCK // shape.numel())
    delta = NEAR * distance(x, points.x, "l2") / size
    changeable = points.decide.objective.select(points.rows).changeable
    weighted, total, decisions = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(delta)
    for begin in range(0, count, block):
        each = min(block, count - begin)
        u = torch.stack([torch.randn(each, *shape, generator=stream) for stream in streams]).to(x)
        u = u / u.flatten(2).norm(dim=2)[..., None, None, None]
        width = delta[:, None, None, None, None]
        near = (x[:, None] + width * u).clamp(points.threat.low, points.threat.high)
        if changeable is not None:
            near = torch.where(changeable[:, None], near, x[:, None])
        u = (near - x[:, None]) / width.clamp_min(1e-12)
        adversarial = points.decide(near.flatten(0, 1), points.rows.repeat_interleave(each)).view(-1, each)
        signs = 2 * adversarial.to(x) - 1
        weighted += (signs[..., None, None, None] * u).sum(dim=1)
        total, decisions = total + u.sum(dim=1), decisions + signs.sum(dim=1)
    mean = per_sample(decisions / count, x)
    return torch.where(mean.abs() == 1, mean * total, weighted - mean * total)
