"""Weather and light. Every corruption maps an image, floats in [0, 1] (H×W×C), to one that may leave the range."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from inoculate.data.corruptions.blur import blur_along, magnify
from inoculate.data.corruptions.noise import Image

LUMA = np.array([0.299, 0.587, 0.114])
ICE = np.array([0.55, 0.62, 0.68])  # mean colour of the frost


def snow(x: Image, rng: Generator, flakes: Sequence[float], fall: Sequence[float], keep: float) -> Image:
    """Flakes that fall at an angle, over the image and its whitened version, against which it has the weight `keep`.

    `flakes`: mean and standard deviation of random values, by how much they are magnified, and what is too faint to be
    one. `fall`: radius and width of their motion blur.
    """
    mean, scale, size, least = flakes
    layer = magnify(rng.normal(mean, scale, (*x.shape[:2], 1)), size)
    layer = _eight_bits(np.where(layer < least, 0, layer))
    layer = _eight_bits(blur_along(layer, int(fall[0]), fall[1], rng.uniform(-135, -45)))
    grey = x @ LUMA if x.shape[2] == 3 else x[:, :, 0]
    whitened = np.maximum(x, 1.5 * grey[:, :, None] + 0.5)
    found: Image = keep * x + (1 - keep) * whitened + layer + np.rot90(layer, 2)
    return found


def frost(x: Image, rng: Generator, keep: float, amount: float) -> Image:
    """The image times `keep` plus ice times `amount`."""
    ice = ice_texture(rng, x.shape[:2])
    found: Image = keep * x + amount * (ice * ICE if x.shape[2] == 3 else ice * (ICE @ LUMA))
    return found


def fog(x: Image, rng: Generator, amount: float, decay: float) -> Image:
    """A cloud of this `amount` is added, and the whole brought back to the brightest value of the image."""
    height, width = x.shape[:2]
    cloud = plasma(rng, max(32, 2 ** (max(height, width) - 1).bit_length()), decay)
    brightest = x.max()
    found: Image = (x + amount * cloud[:height, :width, None]) * brightest / (brightest + amount)
    return found


def brightness(x: Image, rng: Generator, amount: float) -> Image:
    """The value of each pixel in HSV rises by `amount`, up to 1; hue and saturation stay."""
    value = x.max(axis=2, keepdims=True)
    brighter = np.clip(value + amount, 0, 1)
    found: Image = np.where(value > 0, x * brighter / np.where(value > 0, value, 1), brighter)
    return found


def contrast(x: Image, rng: Generator, amount: float) -> Image:
    """The distance of each value from the mean of its channel is multiplied by `amount`."""
    mean = x.mean(axis=(0, 1), keepdims=True)
    found: Image = (x - mean) * amount + mean
    return found


def plasma(rng: Generator, side: int, decay: float) -> Image:
    """A cloud in [0, 1] of side×side pixels (a power of two), by the diamond-square algorithm on a torus.

    At each level new points are the mean of four neighbours plus uniform noise of an amplitude that starts at 100² and
    is divided by `decay`² (as published: the amplitude enters squared).
    """
    cloud, step, amplitude = np.zeros((side, side)), side, 100.0

    def around(total: Image) -> Image:
        found: Image = total / 4 + amplitude * rng.uniform(-amplitude, amplitude, total.shape)
        return found

    while step >= 2:
        half = step // 2
        corners = cloud[::step, ::step]
        rows = corners + np.roll(corners, -1, axis=0)
        centres = around(rows + np.roll(rows, -1, axis=1))
        cloud[half::step, half::step] = centres
        upright = centres + np.roll(centres, 1, axis=0)
        cloud[::step, half::step] = around(upright + corners + np.roll(corners, -1, axis=1))
        level = centres + np.roll(centres, 1, axis=1)
        cloud[half::step, ::step] = around(level + corners + np.roll(corners, -1, axis=0))
        step, amplitude = half, amplitude / decay
    cloud -= cloud.min()
    found: Image = cloud / max(cloud.max(), 1e-12)
    return found


def ice_texture(rng: Generator, size: tuple[int, int]) -> Image:
    """Ice on a window, H×W×1 in [0, 1.4]: needles in three directions, denser where a cloud is bright."""
    height, width = size
    cloud = plasma(rng, max(32, 2 ** (max(size) - 1).bit_length()), 1.8)[:height, :width, None]
    length = max(3, max(size) // 12)
    needles = np.zeros((height, width, 1))
    for angle in rng.uniform(0, 60) + np.array([0, 60, 120]):
        seeds = (rng.random((height, width, 1)) < 0.06).astype(np.float64)
        needles = np.maximum(needles, blur_along(seeds, length, length / 1.5, float(angle)))
    needles /= max(needles.max(), 1e-12)
    found: Image = (0.35 + 0.5 * cloud + needles * cloud).clip(0, 1.4)
    return found


def _eight_bits(x: Image) -> Image:
    found: Image = np.floor(np.clip(x, 0, 1) * 255) / 255
    return found
