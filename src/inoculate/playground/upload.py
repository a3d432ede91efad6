"""A file that somebody uploads: refused in one line, or read as the data are."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from inoculate.core.errors import InputError
from inoculate.data.decode import UnreadableImageError, decode_image
from inoculate.data.pixels import CONVERTED, DEEP, FLOAT, FRAMES, TRANSPARENT, TURNED, DepthUnknownError
from inoculate.data.preprocessing import Preprocessing

LARGEST_FILE = 16 * 2**20  # bytes
LARGEST_IMAGE = 25_000_000  # pixels: 75 MB once decoded
LONGEST_RATIO = 20  # of the sides: the shorter one is resized to the model's size, and the longer one grows with it
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # none of which starts another program
_KINDS = "a PNG, JPEG, WebP, GIF, BMP or TIFF image"
_NOTES = {
    TRANSPARENT: "transparent parts were laid on white",
    TURNED: "turned upright as its EXIF data say",
    FRAMES: "the first frame of several",
    DEEP: "more than 8 bits a channel were reduced to 8",
    FLOAT: "floating-point values were reduced to 8 bits",
    CONVERTED: "its colour space was converted to RGB",
}


@dataclass(frozen=True, eq=False)
class Picture:
    """One image to attack.

    Fields:
        pixels: uint8, C×H×W.
        label: the number of its class in the data; None where nobody knows it.
        name: what it is, in words.
        notes: what was done to it, one phrase each.
    """

    pixels: Tensor
    label: int | None
    name: str
    notes: tuple[str, ...] = ()


def read_upload(content: bytes, reading: Preprocessing) -> Picture:
    """The image in `content`, an encoded file, with the size and channels that `reading` says.

    Size, format and pixels are checked before anything is decoded. Raises `InputError`: one line that says why the file
    is refused.
    """
    if len(content) > LARGEST_FILE:
        raise _too_large(len(content))
    _check_header(content)
    try:
        decoded = decode_image(content, reading)
    except DepthUnknownError:
        raise InputError(
            "the image has more than 8 bits a channel, and nothing says which value is white: save it with 8 bits, or "
            "start the playground with --value-range 0,65535"
        ) from None
    except UnreadableImageError as error:
        raise InputError(f"the image cannot be read ({error}): save it again as PNG or JPEG") from None
    except MemoryError:
        raise InputError("the image does not fit into memory: make it smaller") from None
    notes = tuple(words for what, words in _NOTES.items() if what in decoded.done)
    return Picture(torch.tensor(decoded.pixels), None, "uploaded image", notes)


def take_file(file: Path, folder: Path) -> bytes:
    """The content of a file that was uploaded into `folder`, and is deleted.

    Raises `InputError` where it is too large, and for a file that lies elsewhere, which is neither read nor deleted.
    """
    if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
        raise InputError("the file was not uploaded here: upload it again")
    try:
        if (length := file.stat().st_size) > LARGEST_FILE:
            raise _too_large(length)
        return file.read_bytes()
    finally:
        file.unlink(missing_ok=True)


def _too_large(length: int) -> InputError:
    return InputError(
        f"the file has {length / 2**20:.1f} MiB, and at most {LARGEST_FILE // 2**20} are read: make the image smaller"
    )


def _check_header(content: bytes) -> None:
    """Raise `InputError` for what is no image of a known format, or decodes into too many pixels; decodes nothing."""
    if not content:
        raise InputError(f"the file is empty: give {_KINDS}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it is refused below
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        raise InputError(f"the image has more than {LARGEST_IMAGE:,} pixels: make it smaller") from None
    except Exception:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error and more
        raise InputError(f"the file cannot be read as {_KINDS}: give one") from None
    if width * height > LARGEST_IMAGE:
        raise InputError(
            f"the image has {width}×{height} pixels, and at most {LARGEST_IMAGE:,} are read: make it smaller"
        )
    if max(width, height) > LONGEST_RATIO * min(width, height):
        raise InputError(
            f"the image has {width}×{height} pixels, more than {LONGEST_RATIO} times as long as wide: crop it"
        )
