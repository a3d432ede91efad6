"""Blur. Every corruption maps an image, floats in [0, 1] (H×W×C), to one that may leave the range."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from scipy.ndimage import correlate1d, gaussian_filter, zoom
from scipy.signal import fftconvolve

from inoculate.data.corruptions.noise import Image


def defocus_blur(x: Image, rng: Generator, radius: float, softness: float) -> Image:
    """The mean over a disk of this radius in pixels, whose edge is smoothed by a Gaussian of width `softness`.

    As published, the weights of disks of 8 and 10 pixels sum to a little more than 1.
    """
    reach, taps = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    across = np.arange(-reach, reach + 1)
    disk = (across[:, None] ** 2 + across**2 <= radius**2).astype(np.float64)
    disk /= disk.sum()
    smooth = np.exp(-(np.arange(-taps, taps + 1) ** 2) / (2 * softness**2))
    for axis in (0, 1):
        disk = correlate1d(disk, smooth / smooth.sum(), axis=axis, mode="mirror")
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    blurred: Image = fftconvolve(padded, disk[:, :, None], mode="valid", axes=(0, 1))
    return blurred


def glass_blur(x: Image, rng: Generator, sigma: float, reach: int, times: int) -> Image:
    """Between two Gaussian blurs every pixel is replaced by one at most `reach` pixels away, `times` times.

    As in the published program, in which the intended exchange of two colours copies one of them.
    """
    x, (height, width) = _eight_bits(gaussian_filter(x, (sigma, sigma, 0), mode="nearest")), x.shape[:2]
    down, across = range(height - reach, reach, -1), range(width - reach, reach, -1)
    moves = rng.integers(-reach, reach, size=(times, max(len(down), 0) * max(len(across), 0), 2)).tolist()
    source = list(range(height * width))  # where each pixel comes from
    for round_ in moves:
        steps = iter(round_)
        for row in down:
            for column in across:
                dx, dy = next(steps)
                source[row * width + column] = source[(row + dy) * width + column + dx]
    moved = x.reshape(height * width, -1)[source].reshape(x.shape)
    blurred: Image = gaussian_filter(moved, (sigma, sigma, 0), mode="nearest")
    return blurred


def motion_blur(x: Image, rng: Generator, radius: int, sigma: float) -> Image:
    """The mean along a line at a random angle of up to 45°, with half a Gaussian as weights."""
    return blur_along(x, radius, sigma, rng.uniform(-45, 45))


def zoom_blur(x: Image, rng: Generator, most: float, step: float) -> Image:
    """The mean of the image and its magnifications from 1 up to below `most`."""
    factors = np.arange(1, most, step)
    total: Image = (x + sum(magnify(x, factor) for factor in factors)) / (len(factors) + 1)
    return total


def blur_along(x: Image, radius: int, sigma: float, degrees: float) -> Image:
    """The weighted mean over 2·`radius` + 1 points on a line that begins at each pixel, at this angle."""
    points = np.arange(2 * radius + 1)
    weights = np.exp(-(points**2) / (2 * sigma**2))
    angle, (height, width) = math.radians(degrees), x.shape[:2]
    found = np.zeros_like(x)
    for point, weight in zip(points, weights / weights.sum(), strict=True):
        down, right = math.ceil(point * math.sin(angle) - 0.5), math.ceil(point * math.cos(angle) - 0.5)
        rows = np.clip(np.arange(height) + down, 0, height - 1)
        columns = np.clip(np.arange(width) + right, 0, width - 1)
        found += weight * x[rows][:, columns]
    return found


def magnify(x: Image, factor: float) -> Image:
    """The middle of the image, magnified linearly to its size."""
    height, width = x.shape[:2]
    rows, columns = (_middle(side, math.ceil(side / factor)) for side in (height, width))
    larger = zoom(x[rows, columns], (factor, factor, 1), order=1)
    found: Image = larger[_middle(larger.shape[0], height), _middle(larger.shape[1], width)]
    return found


def _middle(side: int, part: int) -> slice:
    first = (side - part) // 2
    return slice(first, first + part)


def _eight_bits(x: Image) -> Image:
    rounded: Image = np.floor(np.clip(x, 0, 1) * 255) / 255
    return rounded
