"""Noise. Every corruption maps an image, floats in [0, 1] (H×W×C), to one that may leave the range."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Image = NDArray[np.float64]


def gaussian_noise(x: Image, rng: Generator, scale: float) -> Image:
    """Independent normal noise of this standard deviation on every value."""
    return x + rng.normal(scale=scale, size=x.shape)


def shot_noise(x: Image, rng: Generator, photons: float) -> Image:
    """Poisson noise: white is this many photons."""
    counts: Image = rng.poisson(x * photons) / photons
    return counts


def impulse_noise(x: Image, rng: Generator, share: float) -> Image:
    """This share of the values becomes 0 or 1, with equal probability."""
    struck, white = rng.random(x.shape) < share, rng.random(x.shape) < 0.5
    return np.where(struck, white, x)
