"""PNG and TIFF files of kinds that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

RGB, GREY, WHITE_IS_ZERO, CMYK, LAB = 2, 1, 0, 5, 8  # TIFF's photometric interpretations
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # TIFF's sample formats


def png16(values: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits with 1 to 4 bands, H×W×C."""
    height, width, bands = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(values: NDArray[Any], photometric: int, *, extra: list[int] | None = None, big_endian: bool = False) -> bytes:
    """An uncompressed TIFF of H×W or H×W×C numbers; `extra` says what the bands beyond the colours are."""
    order = ">" if big_endian else "<"
    height, width, bands = (*values.shape, 1)[:3]
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    kind = {"u": UNSIGNED, "i": SIGNED, "f": FLOAT}[values.dtype.kind]
    short, long = 3, 4
    tags = [
        (256, long, [width]), (257, long, [height]), (258, short, [8 * values.itemsize] * bands), (259, short, [1]),
        (262, short, [photometric]), (273, long, [0]), (277, short, [bands]), (278, long, [height]),
        (279, long, [len(data)]), *([(338, short, extra)] if extra is not None else []), (339, short, [kind] * bands),
    ]  # fmt: skip
    after = 8 + 2 + 12 * len(tags) + 4
    blob, entries = b"", []
    for tag, form, numbers in tags:
        packed = struct.pack(order + {short: "H", long: "I"}[form] * len(numbers), *numbers)
        place = packed.ljust(4, b"\0")
        if len(packed) > 4:
            place, blob = struct.pack(f"{order}I", after + len(blob)), blob + packed
        entries.append([struct.pack(f"{order}HHI", tag, form, len(numbers)), place])
    entries[5][1] = struct.pack(f"{order}I", after + len(blob))  # tag 273: where the pixels are
    start = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(f"{order}IH", 8, len(entries))
    return start + b"".join(map(b"".join, entries)) + b"\0\0\0\0" + blob + data
