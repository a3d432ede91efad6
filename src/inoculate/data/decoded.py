"""Decode a source once, to a memory-mapped uint8 array in the user's cache."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from inoculate.core.errors import InputError
from inoculate.core.progress import Progress
from inoculate.data.dataset import Dataset, finish_digest
from inoculate.data.decode import Payload, Pixels, UnreadableImageError, decode_image, inspect_image
from inoculate.data.labels import resolve_labels
from inoculate.data.readers import Item, Shard

T = TypeVar("T")
_log = logging.getLogger(__name__)
_MAX_UNREADABLE = 0.01  # of all images: more points at a damaged copy, not at a few bad files
_FALLBACK_SIZE = 224
_MAX_OWN_SIZE = 256  # a larger common size is that of a camera, not of a dataset made for training
_SAMPLE = 64
_CHUNK = 32  # images per task of a decoding thread
_MIN_BYTES_FOR_THREADS = 16384  # of an encoded image
_DAY = 86400.0


@dataclass(frozen=True)
class DecodedSource:
    """All labelled images of a source, its splits one after the other.

    official_test: bool N, which images are of the source's own test split.
    """

    data: Dataset
    official_test: NDArray[np.bool_]

    @property
    def has_test(self) -> bool:
        """Whether the source has a test split of its own."""
        return bool(self.official_test.any())


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
    folder: Path, shards: list[Shard], name: str, size: int, channels: int, progress: Progress | None
) -> None:
    """Fill `folder` with images.npy, labels.npy, test.npy and info.json.

    Raises `InputError` for bad labels, or when more than 1 % of the images are unreadable; fewer are left out and
    listed.
    """
    for old in folder.iterdir():  # of an interrupted run
        old.unlink()
    kept, labels, classes = resolve_labels(shards, name)
    total = sum(map(len, labels))
    readable = np.ones(total, dtype=bool)
    skipped: list[tuple[str, str]] = []  # name and reason
    hasher = blake2b(digest_size=16)
    with (folder / "images.npy").open("wb") as stream:
        start = _write_header(stream, (total, channels, size, size))
        for row, (item, pixels) in enumerate(_decoded(kept, size, channels)):
            if isinstance(pixels, UnreadableImageError):
                readable[row] = False
                skipped.append((item[0], str(pixels)))
            else:
                # plain writes, for the pages of a memory map would count as this process's memory
                stream.write(pixels.data)
                hasher.update(pixels.data)
            if progress is not None and ((row + 1) % 256 == 0 or row + 1 == total):
                progress(f"decode {name}", row + 1, total)
        _check_skipped(skipped, total, name)
        shape = (total - len(skipped), channels, size, size)
        stream.seek(0)
        if _write_header(stream, shape) != start:
            raise AssertionError("the header of images.npy changed its length")
    test = np.concatenate([np.full(len(y), shard.split == "test") for shard, y in zip(kept, labels, strict=True)])
    y = np.concatenate(labels)[readable]
    np.save(folder / "labels.npy", y)
    np.save(folder / "test.npy", test[readable])
    names = [name for name, _ in skipped]
    info = {"classes": classes, "skipped": names, "digest": finish_digest(hasher, shape, y, classes)}
    (folder / "info.json").write_text(json.dumps(info), encoding="utf-8")


def read_decoded(folder: Path, name: str) -> DecodedSource:
    """What `write_decoded` wrote; the images are mapped copy-on-write, so that nothing can change the cache."""
    info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    images = torch.from_numpy(np.load(folder / "images.npy", mmap_mode="c", allow_pickle=False))
    labels = torch.from_numpy(np.load(folder / "labels.npy", allow_pickle=False))
    test = np.load(folder / "test.npy", allow_pickle=False)
    return DecodedSource(
        Dataset(images, labels, tuple(info["classes"]), name, info["digest"], tuple(info["skipped"])), test
    )


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left behind: partial folders in which nothing was written for a day."""
    for partial in folder.glob("*.partial"):
        times = [path.stat().st_mtime for path in [partial, *partial.glob("*")] if path.exists()]
        if times and time.time() - max(times) > _DAY:
            shutil.rmtree(partial, ignore_errors=True)


def _write_header(stream: BinaryIO, shape: tuple[int, ...]) -> int:
    """Write the .npy header for uint8 images and return where the pixels begin; numpy pads it for a changing length."""
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.tell()


def _decoded(shards: list[Shard], size: int, channels: int) -> Iterator[tuple[Item, Pixels | UnreadableImageError]]:
    """Every image in order. Large ones are decoded by several threads: Pillow releases the interpreter meanwhile."""
    workers = min(8, os.cpu_count() or 1)

    def decode(item: Item) -> Pixels | UnreadableImageError:
        if item[1] is None:
            return UnreadableImageError("the source holds no image")
        return _attempt(lambda payload: decode_image(payload, size, channels), item[1])

    def decode_all(chunk: list[Item]) -> list[Pixels | UnreadableImageError]:
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
    first = ", ".join(f"{item} ({reason})" for item, reason in skipped[:3]) + (", …" if len(skipped) > 3 else "")
    if len(skipped) > _MAX_UNREADABLE * total:
        raise InputError(
            f"{name}: {len(skipped)} of {total} images cannot be read (more than 1 %): {first}: replace or remove them"
        )
    if skipped:
        _log.warning("%s: left out %d of %d images that cannot be read: %s", name, len(skipped), total, first)
