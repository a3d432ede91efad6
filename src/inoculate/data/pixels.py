"""Encoded images of any mode, depth and orientation as 8-bit grey or RGB, and what had to be done for it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Payload = bytes | Path | NDArray[np.uint8] | Image.Image
Range = tuple[float, float]

# What was done to an image; the notes of a dataset count it.
TRANSPARENT, TURNED, FRAMES, DEEP, FLOAT, CONVERTED = "transparent", "turned", "frames", "deep", "float", "converted"
ORIENTATION, TRANSPOSED = 274, 5  # the EXIF tag, and its values from which width and height are exchanged

_WITH_FRAMES = ("GIF", "TIFF", "WEBP", "PNG")  # the further pictures of a JPEG are previews
_TOLERANCE = 1e-6  # of a range, for rounding


class DepthUnknownError(Exception):
    """An image has integers of more than 8 bits, and which value is white has not been decided."""


def open_image(payload: Payload) -> Image.Image:
    """The image, whose pixels are not read yet. Raises one of Pillow's many errors."""
    if isinstance(payload, Image.Image):
        return payload.copy()  # the caller's is neither changed nor closed
    if isinstance(payload, np.ndarray):
        return Image.fromarray(payload)
    return Image.open(io.BytesIO(payload) if isinstance(payload, bytes) else payload)


def read_8_bits(
    payload: Payload, declared: Range | None = None, top: int | None = None
) -> tuple[Image.Image, set[str]]:
    """The image in mode L or RGB, its EXIF orientation applied, and what was done.

    Transparency is laid on white. Of integers of more than 8 bits, 0 to `top` become 0 to 255; of these and of floats,
    `declared` is the range instead. Raises `ValueError` for pixels that cannot be read so, `DepthUnknownError` for deep
    integers without either range, and Pillow's errors.
    """
    with open_image(payload) as image:
        done = {FRAMES} if image.format in _WITH_FRAMES and getattr(image, "is_animated", False) else set[str]()
        values = deep_values(image, payload)
        if image.mode == "F":
            if declared is None:
                raise ValueError(
                    "floating-point pixels have no agreed range: declare it with --value-range 0,1, value_range=(0, 1)"
                )
            done.add(FLOAT)
            values = np.asarray(image, dtype=np.float64)
        elif values is not None:
            done.add(DEEP)
            if declared is None and top is None:
                raise DepthUnknownError
        plain = image if values is None else _scaled(values, declared or (0, top or 0))
        if (orientation := image.getexif().get(ORIENTATION, 1)) != 1:
            done.add(TURNED)
            plain = _turned(plain, orientation)
        return _flattened(plain, done), done


def deep_values(image: Image.Image, payload: Payload) -> NDArray[Any] | None:
    """The values of integers with more than 8 bits, H×W, H×W×3 or H×W×4; None for other images, which are loaded.

    image: `payload` opened. Raises `ValueError` for pixels whose meaning is not known.
    """
    _check_bands(image)
    rawmode, form = _rawmode(image), image.mode
    deep_colour = ";16" in rawmode and not form.startswith("I")
    image.load()
    if form.startswith("I"):
        return np.asarray(image).astype(np.int64)
    if not deep_colour:
        return None
    if form not in ("RGB", "RGBA") or not rawmode.startswith(f"{form};"):
        raise ValueError(f"16-bit pixels of the form {rawmode.split(';')[0]} are not read: convert them to RGB")
    # Pillow keeps the high byte of each value. Told the other byte order, it keeps the low one.
    with open_image(payload) as low:
        other = {"L": "B", "B": "L", "N": "B" if np.little_endian else "L"}[rawmode[-1]]
        low.tile = [tile._replace(args=_with_rawmode(tile.args, rawmode[:-1] + other)) for tile in low.tile]  # type: ignore[attr-defined]
        low.load()
        values: NDArray[Any] = np.asarray(image).astype(np.int64) * 256 + np.asarray(low)
        return values


def _rawmode(image: Image.Image) -> str:
    """How a file that is not loaded yet stores its pixels, in Pillow's words; empty where it does not say."""
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _with_rawmode(args: Any, rawmode: str) -> Any:
    return (rawmode, *args[1:]) if isinstance(args, tuple) else rawmode


def _check_bands(image: Image.Image) -> None:
    """Raise `ValueError` for a TIFF file that Pillow would misread without a word."""
    if image.format != "TIFF":
        return
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    bits, kinds = (max(np.atleast_1d(tags.get(tag, 1)).tolist()) for tag in (258, 339))
    samples, photometric, extra = int(tags.get(277, 1)), tags.get(262), np.atleast_1d(tags.get(338, ())).tolist()
    is_rgba = samples == 4 and extra in ([1], [2])
    if photometric == 2 and samples > 3 and not is_rgba:
        raise ValueError(f"its {samples} bands are neither RGBA nor CMYK: keep the three that are red, green and blue")
    if kinds == 2 and bits <= 8:
        raise ValueError("its integers of 8 bits are signed: convert them to unsigned ones")
    if photometric == 0 and bits > 8:
        raise ValueError(f"its {bits}-bit values store white as 0: convert it so that black is 0")


def _scaled(values: NDArray[Any], span: Range) -> Image.Image:
    """Values of `span` as 0..255; a fourth band, transparency, has its own zero."""
    low, high = span
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinity")
    colours = values[..., :3] if values.ndim == 3 else values
    margin = _TOLERANCE * (high - low)
    if colours.min() < low - margin or colours.max() > high + margin:
        raise ValueError(
            f"its values go from {colours.min():g} to {colours.max():g}, outside the range {low:g} to {high:g}"
        )
    scaled = (values - low) * (255 / (high - low))
    if values.ndim == 3 and values.shape[2] == 4:
        scaled[..., 3] = values[..., 3] * (255 / high)
    return Image.fromarray(np.floor(scaled.clip(0, 255) + 0.5).astype(np.uint8))


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image as its EXIF orientation says, which a copy made from its values has lost."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    bare = image.copy()
    bare.info["exif"] = exif.tobytes()
    return ImageOps.exif_transpose(bare)


def _flattened(image: Image.Image, done: set[str]) -> Image.Image:
    """The image in mode L or RGB, with transparency laid on white."""
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        above = image.convert("RGBA")
        grey = image.mode in ("L", "LA", "La", "1")
        if above.getchannel("A").getextrema()[0] != 255:
            done.add(TRANSPARENT)
            above = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
        return above.convert("L" if grey else "RGB")
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        done.add(CONVERTED)
    return image.convert("L" if image.mode == "1" else "RGB")
