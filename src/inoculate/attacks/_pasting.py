"""Squares laid over images: where they lie, laying them there and cutting them out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from inoculate.core.rng import Draws
from inoculate.core.threat import Threat

Place = tuple[Tensor, Tensor]  # top and left of the square in each image (B, B)


def largest_side(x: Tensor, threat: Threat) -> int:
    """The side of the largest square of at most eps pixels that fits into the images."""
    return min(math.isqrt(int(threat.eps)), int(x.shape[2]), int(x.shape[3]))


def random_places(x: Tensor, side: int, draws: Draws) -> Place:
    """A random place of the square for each image."""
    top, left = (draws.integers(size - side + 1) for size in x.shape[2:])
    return top, left


def paste(x: Tensor, patch: Tensor, place: Place) -> Tensor:
    """The images (B×C×H×W) with a patch each (B×C×side×side) at its place."""
    pasted = x.clone()
    pasted.permute(0, 2, 3, 1)[_square(place, patch.shape[-1])] = patch.permute(0, 2, 3, 1)
    return pasted


def cut(x: Tensor, place: Place, side: int) -> Tensor:
    """What lies in the square of each image: B×C×side×side."""
    return x.permute(0, 2, 3, 1)[_square(place, side)].permute(0, 3, 1, 2)


def _square(place: Place, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The numbers of image, row and column of the pixels in each square, B×side×side together."""
    along = torch.arange(side, device=place[0].device)
    images = torch.arange(len(place[0]), device=place[0].device)
    return images[:, None, None], (place[0][:, None] + along)[:, :, None], (place[1][:, None] + along)[:, None, :]


def chosen(place: Place, rows: Tensor) -> Place:
    """The places in some of the images."""
    return place[0][rows], place[1][rows]
