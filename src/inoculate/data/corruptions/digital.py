"""Digital corruptions. Every one maps an image, floats in [0, 1] (H×W×C), to one that may leave the range."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
from numpy.random import Generator
from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates

from inoculate.data.corruptions.noise import Image


def elastic_transform(x: Image, rng: Generator, alpha: float, sigma: float, affine: float) -> Image:
    """A random affine map, then random displacements of up to `alpha` pixels, smoothed over `sigma` pixels.

    Three points around the middle are moved by up to `affine` pixels each.
    """
    height, width, channels = x.shape
    middle, third = np.array([width // 2, height // 2]), min(height, width) // 3
    before = middle + third * np.array([[1, 1], [1, -1], [-1, -1]])
    after = before + rng.uniform(-affine, affine, (3, 2))
    # Row, column, 1 of a point of the result to row and column in the image.
    to_image = np.linalg.solve(np.column_stack([after[:, ::-1], np.ones(3)]), before[:, ::-1]).T
    moved = [affine_transform(x[:, :, c], to_image, order=1, mode="mirror") for c in range(channels)]
    dx, dy = (
        gaussian_filter(rng.uniform(-1, 1, (height, width)), sigma, mode="reflect", truncate=3) * alpha
        for _ in range(2)
    )
    rows, columns = np.mgrid[:height, :width]
    places = [rows + dy, columns + dx]
    return np.stack([map_coordinates(each, places, order=1, mode="reflect") for each in moved], axis=2)


def pixelate(x: Image, rng: Generator, share: float) -> Image:
    """Both sides shrunk to this share and back, by means over boxes."""
    picture = _as_picture(x)
    small = picture.resize([max(1, int(side * share)) for side in picture.size], PIL.Image.Resampling.BOX)
    return _as_floats(small.resize(picture.size, PIL.Image.Resampling.BOX))


def jpeg_compression(x: Image, rng: Generator, quality: int) -> Image:
    """Saved as JPEG of this quality, and read again."""
    stream = io.BytesIO()
    _as_picture(x).save(stream, "JPEG", quality=quality)
    return _as_floats(PIL.Image.open(stream))


def _as_picture(x: Image) -> PIL.Image.Image:
    values = np.rint(x * 255).astype(np.uint8)
    return PIL.Image.fromarray(values[:, :, 0] if x.shape[2] == 1 else values)


def _as_floats(picture: PIL.Image.Image) -> Image:
    values = np.asarray(picture, dtype=np.float64) / 255
    return values[:, :, None] if values.ndim == 2 else values
