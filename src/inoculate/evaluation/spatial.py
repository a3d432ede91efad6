"""The job `spatial`: accuracy when an adversary may rotate and shift each image."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from inoculate.core.errors import InputError
from inoculate.core.options import require_count, require_nonnegative, require_one_of
from inoculate.core.progress import Progress
from inoculate.core.rng import Draws, generator, seeded
from inoculate.data.load import DataLike
from inoculate.evaluation.engine import batches
from inoculate.evaluation.evaluate import EvaluationOptions
from inoculate.evaluation.natural import Natural
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.result import Evaluation
from inoculate.models.loading.load import ModelLike

NORM = "spatial"


@dataclass(frozen=True)
class Movements:
    """The rotations and translations that an adversary may choose from, and how it searches them.

    Options:
        angle: degrees either way.
        shift: pixels either way, up and down and to the sides; a text such as `10%` is a share of the shorter side.
        search: `grid` tries every combination, `random` the worst of some at random.
        rotations: angles of the grid.
        shifts: shifts of the grid in each direction.
        tries: how many are tried at random.

    Raises `InputError` for an option out of its range.
    Source: Engstrom et al. 2019, section 3: a grid of 31×5×5, or the worst of 10.
    """

    angle: float = 30.0
    shift: float | str = 3.0
    search: Literal["grid", "random"] = "grid"
    rotations: int = 31
    shifts: int = 5
    tries: int = 10

    def __post_init__(self) -> None:
        require_nonnegative(angle=self.angle, shift=self.pixels((100, 100)))
        require_one_of(("grid", "random"), search=self.search)
        require_count(rotations=self.rotations, shifts=self.shifts, tries=self.tries)
        if self.angle > 180:
            raise InputError(f"angle {self.angle:g} is more than half a turn: give degrees from 0 to 180")

    def pixels(self, size: tuple[int, int]) -> float:
        """The largest shift of images of `size` (H, W)."""
        if not isinstance(self.shift, str):
            return self.shift
        try:
            return float(self.shift.removesuffix("%")) * (min(size) / 100 if self.shift.endswith("%") else 1)
        except ValueError:
            raise InputError(f"shift '{self.shift}' is not understood: write pixels, 3, or a share, 10%") from None

    def name(self, size: tuple[int, int]) -> str:
        """The limits and the search in words."""
        steps = f"{self.rotations}×{self.shifts}×{self.shifts}" if self.search == "grid" else f"worst of {self.tries}"
        return f"±{self.angle:g}°, ±{self.pixels(size):g} px, {steps}"

    def candidates(self, x: Tensor, seed: int) -> Iterator[Tensor]:
        """Angle in degrees, shift to the right and shift down of each of the images `x` (B×3), one after the other."""
        limit = self.pixels((int(x.shape[2]), int(x.shape[3])))
        if self.search == "random":
            draws = Draws(x, generator(seed, "spatial", device=x.device))
            limits = torch.tensor([self.angle, limit, limit], device=x.device)
            for _ in range(self.tries):
                yield (draws.uniform(3) * 2 - 1) * limits
            return
        shifts = _spread(limit, self.shifts)
        for angle in _spread(self.angle, self.rotations):
            for right in shifts:
                for down in shifts:
                    yield torch.tensor([[angle, right, down]], device=x.device).expand(len(x), 3)


def move_images(x: Tensor, movements: Tensor) -> Tensor:
    """The images (B×C×H×W) rotated about their middle, then shifted; what comes in from outside is black.

    `movements` (B×3): degrees (clockwise), pixels to the right and down. Bilinear.
    """
    height, width = x.shape[2:]
    angle = movements[:, 0] * (math.pi / 180)
    right, down = 2 * movements[:, 1] / width, 2 * movements[:, 2] / height
    cos, sin = angle.cos(), angle.sin()
    wide, tall = sin * (height / width), -sin * (width / height)
    from_result = torch.stack(
        [
            torch.stack([cos, wide, -cos * right - wide * down], dim=1),
            torch.stack([tall, cos, -tall * right - cos * down], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(from_result.to(x.dtype), list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    still = (movements == 0).all(dim=1)
    return torch.where(still.view(-1, 1, 1, 1), x, moved)


def spatial(
    model: ModelLike,
    data: DataLike,
    movements: Movements = Movements(),
    *,
    batch_size: int | None = None,
    seed: int = 0,
    options: EvaluationOptions = EvaluationOptions(),
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a classifier against an adversary who rotates and shifts each image; it needs no gradient.

    Args:
        model: as for `evaluate`.
        data: as for `evaluate`.
        movements: what is allowed, and how it is searched.
        batch_size: images at a time, by default as in `evaluate`.
        seed: of every random draw; those of an image depend on it and the image alone.
        options: as for `evaluate`, of which the label, the matching of classes, precision and device count.
        progress: called as `("spatial", images done, all images)`.

    Returns:
        The clean row, and one whose `attack` is `spatial_grid` or `spatial_random`, `norm` is `spatial`, `eps` 0, and
        `movements` has the limits. An image counts if no movement that was tried makes the model err; a clean error is
        an error.

    Raises `InputError` for what the model cannot take.
    """
    natural, name = Natural.begin(model, data, NORM, batch_size, seed, options), f"spatial_{movements.search}"
    with seeded(seed, name):
        result = _worst(natural, movements, progress)
    row = result.row(**natural.labels, attack=name, movements=movements.name(natural.data.image_size))
    return natural.evaluation({row: replace(result, names=(name,))})


@torch.inference_mode(False)
def _worst(natural: Natural, movements: Movements, progress: Progress | None) -> PerSampleResult:
    """The first error of each image that is right when clean, else the movement of the largest margin."""
    classifier, result, began = natural.classifier, natural.clean.copy(), time.perf_counter()
    rows, done = natural.clean.right.nonzero().squeeze(1), 0
    with classifier.ready():
        for batch in batches(rows, natural.settings.batch_size):
            x, y = classifier.load(natural.data, batch)
            left = torch.arange(len(batch))
            for movement in movements.candidates(x, natural.settings.seed):
                at = left.to(x.device)
                seen = classifier.predict(move_images(x[at], movement[at]), y[at])
                worse, places = (seen.margin > result.margin[batch[left]]) | ~seen.right, batch[left]
                result.margin[places[worse]] = seen.margin[worse]
                result.predicted[places[worse]] = seen.predicted[worse]
                result.right[places], result.broken_by[places[~seen.right]] = seen.right, 0
                left = left[seen.right]
                if not len(left):
                    break
            done += len(batch)
            if progress:
                progress("spatial", done, len(rows))
    return replace(result, seconds=time.perf_counter() - began)


def _spread(limit: float, count: int) -> list[float]:
    """`count` numbers from −`limit` to `limit`; 0 alone for one."""
    return [limit * (2 * i / (count - 1) - 1) for i in range(count)] if count > 1 else [0.0]
