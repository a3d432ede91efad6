"""Files that somebody might upload: hostile or unusual ones, each small and made here."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from inoculate.playground.upload import LARGEST_FILE


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(width: int = 32, height: int = 32, mode: str = "RGB") -> Image.Image:
    bands = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.fromarray(pixels[..., 0] if bands == 1 else pixels, mode)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int = 8, kind: int = 2, rows: bytes = b"") -> bytes:
    """A PNG whose header claims this size, whatever its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def broken_checksum() -> bytes:
    content = bytearray(encoded(noise()))
    content[content.index(b"IDAT") + 40] ^= 0xFF
    return bytes(content)


def text_bomb() -> bytes:
    """A PNG with 80 MB of text in a few kilobytes."""
    content = encoded(noise())
    end = content.index(b"IDAT") - 4
    texts = b"".join(chunk(b"zTXt", b"k%d\0\0" % n + zlib.compress(bytes(900_000), 9)) for n in range(90))
    return content[:end] + texts + content[end:]


def profile_bomb() -> bytes:
    """A PNG with 20 MB of colour profile."""
    content = encoded(noise())
    start = content.index(b"IHDR") + 4 + 13 + 4
    return content[:start] + chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(20_000_000), 9)) + content[start:]


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.png", bytes(50_000_000))
    return stream.getvalue()


def floats() -> bytes:
    return encoded(Image.fromarray(np.random.default_rng(0).random((8, 8), dtype=np.float32)), "TIFF")


def deep_grey() -> bytes:
    return encoded(Image.fromarray(np.full((8, 8), 4000, np.uint16)))


# What it is: the file, and words of the line that refuses it.
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "empty"),
    "text": (lambda: b"hello\n" * 50, "cannot be read as a PNG"),
    "random bytes": (lambda: np.random.default_rng(0).bytes(5000), "cannot be read as a PNG"),
    "HTML": (lambda: b"<html><script>alert(1)</script></html>", "cannot be read as a PNG"),
    "SVG": (
        lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "cannot be read as a PNG",
    ),
    "PostScript, which Pillow hands to another program": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        "cannot be read as a PNG",
    ),
    "PDF": (lambda: encoded(noise(), "PDF"), "cannot be read as a PNG"),
    "pickle": (lambda: pickle.dumps({"weights": [1, 2, 3]}), "cannot be read as a PNG"),
    "zip": (zipped, "cannot be read as a PNG"),
    "a program": (lambda: b"\x7fELF" + bytes(500), "cannot be read as a PNG"),
    "another image format": (lambda: encoded(noise(), "ICO"), "cannot be read as a PNG"),
    "a file that is too large": (lambda: encoded(noise(8, 8)) + bytes(LARGEST_FILE), "16.0 MiB"),
    "cut PNG": (lambda: encoded(noise())[:-900], "save it again"),
    "cut JPEG": (lambda: encoded(noise(64, 64), "JPEG")[:-500], "save it again"),
    "cut WebP": (lambda: encoded(noise(64, 64), "WEBP")[:-700], "cannot be read as a PNG"),
    "only the first bytes": (lambda: encoded(noise())[:20], "cannot be read as a PNG"),
    "PNG with a broken checksum": (broken_checksum, "save it again"),
    "PNG without pixels": (lambda: png(32, 32), "save it again"),
    "PNG of no width": (lambda: png(0, 32), "cannot be read as a PNG"),
    "decompression bomb": (lambda: png(60_000, 60_000, rows=bytes(10_000)), "more than 25,000,000 pixels"),
    "bomb below Pillow's limit": (lambda: png(12_000, 12_000, rows=bytes(10_000)), "at most 25,000,000"),
    "GIF that claims 65,535 pixels on each side": (
        lambda: b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;",
        "more than 25,000,000 pixels",
    ),
    "a line of pixels": (lambda: encoded(Image.new("L", (1, 60_000))), "20 times as long"),
    "PNG with a bomb of text": (text_bomb, "cannot be read as a PNG"),
    "PNG with a bomb of a colour profile": (profile_bomb, "cannot be read as a PNG"),
    "grey PNG of 16 bits": (deep_grey, "more than 8 bits"),
    "TIFF of floating point": (floats, "no agreed range"),
}  # fmt: skip
# What it is: the file, and words of the note that says what was done to it; empty for none.
ODD: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG": (lambda: encoded(noise(40, 30)), ""),
    "grey JPEG": (lambda: encoded(noise(40, 30, "L"), "JPEG"), ""),
    "transparent PNG": (lambda: encoded(noise(40, 30, "RGBA")), "laid on white"),
    "turned JPEG": (lambda: encoded(noise(40, 30), "JPEG", exif=_turned()), "turned upright"),
    "animated GIF": (
        lambda: encoded(noise(), "GIF", save_all=True, append_images=[noise(mode="L").convert("RGB")]),
        "first frame",
    ),
    "CMYK JPEG": (lambda: encoded(noise(40, 30, "CMYK"), "JPEG"), "colour space"),
    "palette PNG": (lambda: encoded(noise().convert("P")), ""),
    "bitmap of one bit": (lambda: encoded(noise().convert("1")), ""),
    "WebP": (lambda: encoded(noise(), "WEBP"), ""),
    "one pixel": (lambda: encoded(Image.new("RGB", (1, 1))), ""),
}


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[274] = 6
    return exif
