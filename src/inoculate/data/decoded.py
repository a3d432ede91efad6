"""Decode a source once, to a memory-mapped uint8 array in the user's cache."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from inoculate.core.errors import InputError
from inoculate.core.progress import Progress
from inoculate.data.dataset import Dataset, finish_digest
from inoculate.data.decode import Decoded, UnreadableImageError, decode_image, inspect_image, value_extremes
from inoculate.data.labels import resolve_labels
from inoculate.data.notes import first_of, reading_notes
from inoculate.data.pixels import DepthUnknownError, Payload
from inoculate.data.preprocessing import Preprocessing
from inoculate.data.readers import Item, Shard

T = TypeVar("T")
PARTS = ("train", "validation", "test")
_log = logging.getLogger(__name__)
_MAX_UNREADABLE = 0.01  # of all images: more points at a damaged copy, not at a few bad files
_FALLBACK_SIZE = 224
_MAX_OWN_SIZE = 256  # a larger common size is that of a camera, not of a dataset made for training
_SAMPLE = 64
_CHUNK = 32  # images per task of a decoding thread
_MIN_BYTES_FOR_THREADS = 16384  # of an encoded image
_DAY = 86400.0
_DEPTHS = (255, 1023, 4095, 65535)  # the largest values of 8, 10, 12 and 16 bits


@dataclass(frozen=True)
class DecodedSource:
    """All labelled images of a source, its splits one after the other.

    part: uint8 N, of which of the source's own splits each image is, a place in `PARTS`.
    """

    data: Dataset
    part: NDArray[np.uint8]

    @property
    def official_test(self) -> NDArray[np.bool_]:
        """Which images are of the source's own test split."""
        return np.equal(self.part, PARTS.index("test"))

    @property
    def official_val(self) -> NDArray[np.bool_]:
        """Which images are of the source's own validation split."""
        return np.equal(self.part, PARTS.index("validation"))

    @property
    def has_test(self) -> bool:
        """Whether the source has a test split of its own."""
        return bool(self.official_test.any())

    @property
    def has_val(self) -> bool:
        """Whether the source has a validation split of its own."""
        return bool(self.official_val.any())


@dataclass
class _Progress:
    """What was met while a source was decoded."""

    readable: NDArray[np.bool_]
    skipped: list[tuple[str, str]] = field(default_factory=list)  # name and reason
    names: list[bytes] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)


def choose_shape(sample: Iterable[Payload], name: str) -> tuple[int, int]:
    """(image size, channels) that suit a sample of images.

    The size is the shorter side if all agree and it is at most 256, else 224; channels are 1 if all are grey, else 3.
    Raises `InputError` when none can be read.
    """
    tried = [_attempt(inspect_image, payload) for payload in sample]
    seen = [found for found in tried if not isinstance(found, UnreadableImageError)]
    if not seen:
        reason = f" ({tried[0]})" if tried else ""
        raise InputError(
            f"{name}: none of the images tried can be read{reason}: check that they are image files, copied completely"
        )
    sizes = {size for _, size in seen}
    side = min(next(iter(sizes)))
    size = side if len(sizes) == 1 and side <= _MAX_OWN_SIZE else _FALLBACK_SIZE
    return size, 1 if all(grey for grey, _ in seen) else 3


def sample_of(shards: list[Shard]) -> list[Payload]:
    """Images spread over all shards, to choose a shape by."""
    per_shard = max(2, _SAMPLE // max(1, len(shards)))
    return [payload for shard in shards for payload in shard.sample(per_shard)]


def write_decoded(
    folder: Path, shards: list[Shard], name: str, reading: Preprocessing, progress: Progress | None
) -> None:
    """Fill `folder` with images.npy, labels.npy, parts.npy, names.npy and info.json.

    reading: with image size and channels. Raises `InputError` for bad labels, or when more than 1 % of the images are
    unreadable; fewer are left out and listed.
    """
    for old in folder.iterdir():  # of an interrupted run
        old.unlink()
    kept, labels, classes = resolve_labels(shards, name)
    total, top = sum(map(len, labels)), None
    try:
        found, hasher = _write_images(folder, kept, total, name, reading, None, progress)
    except DepthUnknownError:  # the first image of more than 8 bits: which of them it has, all of them decide
        top = _white_value(kept, name)
        found, hasher = _write_images(folder, kept, total, name, reading, top, progress)
    _check_skipped(found.skipped, total, name)
    shape = (total - len(found.skipped), *_image_shape(reading))
    with (folder / "images.npy").open("r+b") as stream:
        if _write_header(stream, shape) != _write_header(BytesIO(), (total, *shape[1:])):
            raise AssertionError("the header of images.npy changed its length")
    parts = [np.full(len(y), PARTS.index(shard.split), np.uint8) for shard, y in zip(kept, labels, strict=True)]
    y = np.concatenate(labels)[found.readable]
    np.save(folder / "labels.npy", y)
    np.save(folder / "parts.npy", np.concatenate(parts)[found.readable])
    np.save(folder / "names.npy", np.array(found.names))
    info = {
        "classes": classes, "skipped": [item for item, _ in found.skipped],
        "notes": reading_notes(found.done, found.skipped, total, top, reading),
        "digest": finish_digest(hasher, shape, y, classes),
    }  # fmt: skip
    (folder / "info.json").write_text(json.dumps(info), encoding="utf-8")


def _write_images(
    folder: Path, shards: list[Shard], total: int, name: str, reading: Preprocessing, top: int | None,
    progress: Progress | None,
) -> tuple[_Progress, blake2b]:  # fmt: skip
    """Write the pixels behind a header for `total` images, and hash them."""
    found, hasher = _Progress(np.ones(total, dtype=bool)), blake2b(digest_size=16)
    with (folder / "images.npy").open("wb") as stream:
        _write_header(stream, (total, *_image_shape(reading)))
        for row, (item, decoded) in enumerate(_decoded(shards, reading, top)):
            if isinstance(decoded, UnreadableImageError):
                found.readable[row] = False
                found.skipped.append((item[0], str(decoded)))
            else:
                # plain writes, for the pages of a memory map would count as this process's memory
                stream.write(decoded.pixels.data)
                hasher.update(decoded.pixels.data)
                found.names.append(item[0].encode("utf-8", "surrogateescape"))
                found.done.update(decoded.done)
            if progress is not None and ((row + 1) % 256 == 0 or row + 1 == total):
                progress(f"decode {name}", row + 1, total)
    return found, hasher


def _image_shape(reading: Preprocessing) -> tuple[int, int, int]:
    assert reading.channels is not None
    assert reading.size is not None
    return (reading.channels, *reading.size)


def _white_value(shards: list[Shard], name: str) -> int:
    """The value that becomes white: of the depths 8, 10, 12 and 16 bits, the least that holds all deep integers."""
    largest = 0
    for shard in shards:
        for item, payload in shard.items():
            low, high = (None if payload is None else value_extremes(payload)) or (0, 0)
            if low < 0 or high > _DEPTHS[-1]:
                raise InputError(
                    f"{name}: the values of {item} go from {low} to {high}, more than 16 bits hold: declare which are "
                    "black and white, --value-range LOW,HIGH, in Python value_range=(low, high)"
                )
            largest = max(largest, high)
    return next(depth for depth in _DEPTHS if largest <= depth)


def read_decoded(folder: Path, name: str) -> DecodedSource:
    """What `write_decoded` wrote; the images are mapped copy-on-write, so that nothing can change the cache."""
    info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    images = torch.from_numpy(np.load(folder / "images.npy", mmap_mode="c", allow_pickle=False))
    labels = torch.from_numpy(np.load(folder / "labels.npy", allow_pickle=False))
    names = np.load(folder / "names.npy", mmap_mode="c", allow_pickle=False)
    data = Dataset(
        images,
        labels,
        tuple(info["classes"]),
        name,
        info["digest"],
        tuple(info["skipped"]),
        tuple(info["notes"]),
        names,
    )
    return DecodedSource(data, np.load(folder / "parts.npy", allow_pickle=False))


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left behind: partial folders in which nothing was written for a day."""
    for partial in folder.glob("*.partial"):
        times = [path.stat().st_mtime for path in [partial, *partial.glob("*")] if path.exists()]
        if times and time.time() - max(times) > _DAY:
            shutil.rmtree(partial, ignore_errors=True)


def _write_header(stream: IO[bytes], shape: tuple[int, ...]) -> int:
    """Write the .npy header for uint8 images and return where the pixels begin; numpy pads it for a changing length."""
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.tell()


def _decoded(
    shards: list[Shard], reading: Preprocessing, top: int | None
) -> Iterator[tuple[Item, Decoded | UnreadableImageError]]:
    """Every image in order. Large ones are decoded by several threads: Pillow releases the interpreter meanwhile."""
    workers = min(8, os.cpu_count() or 1)

    def decode(item: Item) -> Decoded | UnreadableImageError:
        if item[1] is None:
            return UnreadableImageError("the source holds no image")
        return _attempt(lambda payload: decode_image(payload, reading, top), item[1])

    def decode_all(chunk: list[Item]) -> list[Decoded | UnreadableImageError]:
        return [decode(item) for item in chunk]

    with ThreadPoolExecutor(workers) as threads:
        for block in _chunks((item for shard in shards for item in shard.items()), 4 * workers * _CHUNK):
            chunks = list(_chunks(block, _CHUNK))
            # on small images threads spend more time on taking turns than they save
            threaded = _encoded_bytes(block[0]) >= _MIN_BYTES_FOR_THREADS
            done = threads.map(decode_all, chunks) if threaded else map(decode_all, chunks)
            for chunk, pixels in zip(chunks, done, strict=True):
                yield from zip(chunk, pixels, strict=True)


def _attempt(read: Callable[[Payload], T], payload: Payload) -> T | UnreadableImageError:
    """The result of `read`, or the reason why the image is unreadable."""
    try:
        return read(payload)
    except UnreadableImageError as error:
        return error


def _encoded_bytes(item: Item) -> int:
    payload = item[1]
    if isinstance(payload, Path):
        return payload.stat().st_size
    return len(payload) if isinstance(payload, bytes) else 0


def _chunks(items: Iterable[Item], length: int) -> Iterator[list[Item]]:
    stream = iter(items)
    while chunk := list(islice(stream, length)):
        yield chunk


def _check_skipped(skipped: list[tuple[str, str]], total: int, name: str) -> None:
    if len(skipped) > _MAX_UNREADABLE * total:
        raise InputError(
            f"{name}: {len(skipped)} of {total} images cannot be read (more than 1 %): {first_of(skipped)}: "
            "replace or remove them"
        )
    if skipped:
        _log.warning(
            "%s: left out %d of %d images that cannot be read: %s", name, len(skipped), total, first_of(skipped)
        )
