"""One encoded image to uint8 pixels of a fixed size, whatever its mode, orientation and shape."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from inoculate.core.errors import one_line

Payload = bytes | Path | NDArray[np.uint8] | Image.Image
Pixels = NDArray[np.uint8]

_ORIENTATION = 0x0112  # the EXIF tag
_GREY_MODES = {"1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N"}


class UnreadableImageError(Exception):
    """An image is truncated, not an image, too large for Pillow's limit, or of floating point."""


def decode_image(payload: Payload, size: int, channels: int) -> Pixels:
    """Pixels uint8, channels×size×size. Raises `UnreadableImageError` with the reason.

    EXIF orientation is honoured, transparency is laid on white, 16-bit grey keeps its high bits, the shorter side is
    resized to `size` (bilinear with antialias) and the centre cropped.
    """
    try:
        with _open(payload) as opened:
            # JPEG: let libjpeg shrink by powers of two, still leaving twice the pixels needed to filter well
            opened.draft(None, (2 * size, 2 * size))
            image = _upright(opened, channels)
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        if (width, height) != (size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
        pixels = np.asarray(image, dtype=np.uint8)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise UnreadableImageError(one_line(error)) from error
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def inspect_image(payload: Payload) -> tuple[bool, tuple[int, int]]:
    """(whether it is grey, (width, height) upright). Raises `UnreadableImageError` with the reason."""
    try:
        with _open(payload) as opened:
            grey = opened.mode in _GREY_MODES
            image = _upright(opened, 3)
    except MemoryError:
        raise
    except Exception as error:  # as in decode_image
        raise UnreadableImageError(one_line(error)) from error
    if not grey:
        pixels = np.asarray(image)
        grey = bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())
    return grey, image.size


def _open(payload: Payload) -> Image.Image:
    if isinstance(payload, Image.Image):
        return payload.copy()  # the caller's is neither changed nor closed
    if isinstance(payload, np.ndarray):
        return Image.fromarray(payload)
    return Image.open(io.BytesIO(payload) if isinstance(payload, bytes) else payload)


def _upright(image: Image.Image, channels: int) -> Image.Image:
    """A loaded copy in mode L or RGB with its EXIF orientation applied."""
    image.load()
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    return _plain(image, "L" if channels == 1 else "RGB")


def _plain(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.mode.startswith("I"):
        wide: NDArray[Any] = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        above = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    # CMYK has no direct way to grey
    return image.convert("RGB").convert(mode)
