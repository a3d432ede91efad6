"""Masks from files: black and white pictures."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from inoculate.core.errors import InputError, one_line
from inoculate.core.mask import Mask
from inoculate.data.dataset import Dataset


def read_mask(spec: str | PathLike[str], data: Dataset) -> Mask:
    """The mask of the pixels of `data`'s images that may change.

    `spec` is a region, `center:0.5` or `border:2` (see `Mask.region`), or a picture of the images' size: white pixels
    may change, black ones stay. Raises `InputError` for a file that cannot be read, another size, grey or coloured
    pixels, and a mask without a white one.
    """
    path = Path(spec)
    if not path.is_file() and (isinstance(spec, str) and (":" in spec or not path.suffix)):
        return Mask.region(spec, data.image_size)
    try:
        with Image.open(path) as picture:
            colours = np.asarray(picture.convert("RGBA"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "no such file" if not path.is_file() else one_line(error)
        raise InputError(f"mask {path} cannot be read ({reason}): give a black and white PNG, or center:0.5") from None
    if colours.shape[:2] != data.image_size:
        own, images = ("×".join(map(str, size)) for size in (colours.shape[:2], data.image_size))
        raise InputError(f"mask {path} is {own} pixels and the images are {images}: give a picture of that size")
    odd = ~((colours[..., :3] == 0).all(axis=2) | (colours[..., :3] == 255).all(axis=2)) | (colours[..., 3] < 255)
    if odd.any():
        row, column = np.argwhere(odd)[0].tolist()
        raise InputError(
            f"mask {path} is not black and white (row {row}, column {column}): save it as a PNG of these two colours"
        )
    white = colours[..., 0] == 255
    if not white.any():
        raise InputError(f"mask {path} is all black: paint the pixels that may change white")
    return Mask.of(white, path.name)
