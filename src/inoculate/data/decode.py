"""One encoded image to uint8 pixels of a fixed size, whatever its mode, depth, orientation and shape."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from inoculate.core.errors import one_line
from inoculate.data.geometry import fit_image
from inoculate.data.pixels import (
    ORIENTATION,
    TRANSPOSED,
    DepthUnknownError,
    Payload,
    deep_values,
    open_image,
    read_8_bits,
)
from inoculate.data.preprocessing import Preprocessing

Pixels = NDArray[np.uint8]

_SAMPLES, _BITS, _SAMPLE_FORMAT = 277, 258, 339  # TIFF tags
_KINDS = {1: "integers", 2: "signed integers", 3: "floats"}


class UnreadableImageError(Exception):
    """An image is truncated, not an image, too large for Pillow's limit, or of pixels without an agreed meaning."""


class Decoded(NamedTuple):
    """Pixels uint8, C×H×W, and what had to be done to the image (the words of `inoculate.data.pixels`)."""

    pixels: Pixels
    done: frozenset[str]


def decode_image(payload: Payload, reading: Preprocessing, top: int | None = None) -> Decoded:
    """The image as `reading`, in which image size and channels are said, asks for.

    EXIF orientation is honoured and transparency laid on white. Of integers of more than 8 bits, 0..`top` or the
    declared range become 0..255. Raises `UnreadableImageError` with the reason, and `DepthUnknownError` for such
    integers where neither is given.
    """
    try:
        image, done = read_8_bits(payload, reading.value_range, top)
        mode = "L" if reading.channels == 1 else "RGB"
        if reading.crop_mode == "border":  # whose colour a grey image does not have
            image = image.convert(mode)
        pixels = np.asarray(fit_image(image, reading).convert(mode), dtype=np.uint8)
    except (MemoryError, DepthUnknownError):
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise UnreadableImageError(_reason(payload, error)) from error
    planes = pixels[None] if reading.channels == 1 else pixels.transpose(2, 0, 1)
    return Decoded(np.ascontiguousarray(planes), frozenset(done))


def inspect_image(payload: Payload) -> tuple[bool, tuple[int, int]]:
    """(whether it is grey, (width, height) upright). Raises `UnreadableImageError` with the reason."""
    try:
        with open_image(payload) as opened:
            values, is_float = deep_values(opened, payload), opened.mode == "F"
            if values is None and not is_float:
                image, _ = read_8_bits(payload)
                return image.mode == "L" or _is_grey(np.asarray(image)), image.size
            size = opened.size[::-1] if opened.getexif().get(ORIENTATION, 1) >= TRANSPOSED else opened.size
            return values is None or _is_grey(values), size
    except MemoryError:
        raise
    except Exception as error:  # as in decode_image
        raise UnreadableImageError(_reason(payload, error)) from error


def value_extremes(payload: Payload) -> tuple[int, int] | None:
    """The smallest and largest value of an image of integers with more than 8 bits; None for others and unreadable."""
    try:
        with open_image(payload) as image:
            values = deep_values(image, payload)
    except MemoryError:
        raise
    except Exception:  # decode_image will say why
        return None
    if values is None:
        return None
    colours = values if values.ndim == 2 else values[..., :3]
    return int(colours.min()), int(colours.max())


def _is_grey(values: NDArray[Any]) -> bool:
    """Whether H×W or H×W×C values are the same in the first three bands."""
    return values.ndim == 2 or bool((values[..., :1] == values[..., 1:3]).all())


def _reason(payload: Payload, error: Exception) -> str:
    """Why an image cannot be read, without the addresses and paths that Pillow puts into its messages."""
    if isinstance(error, Image.DecompressionBombError):
        return f"{str(error).split(',')[0]}, Pillow's guard against decompression bombs: make it smaller"
    if (isinstance(payload, bytes) and not payload) or (isinstance(payload, Path) and _is_empty(payload)):
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return _tiff_form(payload) or "not an image, or of a format that Pillow does not read"
    return one_line(error)


def _is_empty(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == 0


def _tiff_form(payload: Payload) -> str:
    """What a TIFF file holds that Pillow does not read; empty for other files."""
    if not isinstance(payload, bytes | Path):
        return ""
    content = payload if isinstance(payload, bytes) else payload.read_bytes()
    try:
        tags: Any = TiffImagePlugin.ImageFileDirectory_v2(content[:8])
        stream = io.BytesIO(content)
        stream.seek(tags.next)
        tags.load(stream)
    except Exception:  # no TIFF file, or a damaged one
        return ""
    bits, kind = (int(np.max(tags.get(tag, 1))) for tag in (_BITS, _SAMPLE_FORMAT))
    return (
        f"its {int(tags.get(_SAMPLES, 1))} bands of {bits}-bit {_KINDS.get(kind, 'numbers')} are a form of TIFF that "
        "Pillow does not read: convert it to 8-bit RGB or grey"
    )
