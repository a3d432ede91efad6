"""Small copies of the images that fail first, for the pages about an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from inoculate.data.dataset import Dataset

if TYPE_CHECKING:
    from inoculate.evaluation.agreement import Measured

MOST, MOST_CLEAN_ERRORS = 24, 6  # images; of them so many at most that are wrong without an attack
SIDE = 96  # pixels of the longer side at most


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Images by their number in the data: `numbers` (n, int64) and `pixels` (uint8, n×H×W×C, C 1 or 3)."""

    numbers: NDArray[np.int64]
    pixels: NDArray[np.uint8]

    @classmethod
    def none(cls) -> Thumbnails:
        """Of no image."""
        return cls(np.zeros(0, np.int64), np.zeros((0, 1, 1, 1), np.uint8))


def failing_first(measured: Sequence[Measured], data: Dataset) -> Thumbnails:
    """Thumbnails of the images that fail first: wrong at the smallest eps, and there those with the smallest margin.

    Args:
        measured: on clean images, then under each attack at each eps in a norm.
        data: the images.
    """
    if not measured or data.channels not in (1, 3):
        return Thumbnails.none()
    clean, *attacked = (each.result for each in measured)
    eps = torch.where(clean.right, torch.inf, 0.0).double()
    for each in attacked:
        broken = ~each.right & each.finished
        eps = torch.where(broken, eps.clamp(max=each.eps), eps)
    margin = clean.margin.nan_to_num(0.0).numpy()
    order = [int(i) for i in np.lexsort((-margin, eps.numpy())) if eps[i] < torch.inf]
    wrong = [i for i in order if eps[i] == 0][-MOST_CLEAN_ERRORS:]  # those nearest to being right
    numbers = (wrong + [i for i in order if eps[i] > 0])[:MOST]
    return Thumbnails(np.array(numbers, np.int64), _pixels(data, numbers))


def _pixels(data: Dataset, numbers: Sequence[int]) -> NDArray[np.uint8]:
    if not numbers:
        return Thumbnails.none().pixels
    images = data.images[torch.tensor(numbers)]
    factor = SIDE / max(data.image_size)
    if factor < 1:
        size = [max(1, round(side * factor)) for side in data.image_size]
        images = interpolate(images.float(), size=size, mode="area").round().clamp(0, 255).to(torch.uint8)
    pixels: NDArray[np.uint8] = images.permute(0, 2, 3, 1).contiguous().numpy()
    return pixels
