"""Decode a dataset once, to a memory-mapped uint8 array in the user's cache."""

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
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from inoculate.core.errors import InputError
from inoculate.data.decode import Pixels, decode, look
from inoculate.data.labels import resolve_labels
from inoculate.data.readers import Item, Shard

if TYPE_CHECKING:
    from inoculate.data.dataset import Dataset

Progress = Callable[[int, int], None]
_log = logging.getLogger(__name__)
_MOST_UNREADABLE = 0.01  # of all images: more points at a damaged copy, not at a few bad files
_FALLBACK_SIZE = 224
_LARGEST_OWN_SIZE = 256  # beyond it a common size is that of a camera, not of a dataset made for training
_SAMPLE = 64
_CHUNK = 32  # images per task of a decoding thread
_THREADS_PAY = 16384  # encoded bytes of an image
_DAY = 86400.0


@dataclass(frozen=True)
class Pool:
    """All labelled images of a source, its splits one after the other.

    official_test: bool N, images of the source's own test split; had_test: whether it has one.
    """

    split: Dataset
    official_test: NDArray[np.bool_]
    had_test: bool


def shape_of(shards: list[Shard], name: str) -> tuple[int, int]:
    """(image size, channels) that suit a source, from a spread-out sample of its images.

    The size is the shorter side if all agree and it is at most 256, else 224; channels are 1 if all are grey, else 3.
    Raises InputError when none of the sample can be read.
    """
    per_shard = max(2, _SAMPLE // max(1, len(shards)))
    seen = [found for shard in shards for payload in shard.sample(per_shard) if (found := look(payload)) is not None]
    if not seen:
        raise InputError(f"{name}: none of the images tried can be read: are they image files, copied whole?")
    sizes = {size for _, size in seen}
    side = min(next(iter(sizes)))
    size = side if len(sizes) == 1 and side <= _LARGEST_OWN_SIZE else _FALLBACK_SIZE
    return size, 1 if all(grey for grey, _ in seen) else 3


def write_pool(
    folder: Path, shards: list[Shard], name: str, size: int, channels: int, progress: Progress | None
) -> None:
    """Fill `folder` with images.npy, labels.npy, test.npy and pool.json.

    Raises InputError for bad labels, or when more than 1 % of the images are unreadable; fewer are left out and listed.
    """
    for old in folder.iterdir():  # an interrupted writer's
        old.unlink()
    kept, labels, classes = resolve_labels(shards, name)
    total = sum(map(len, labels))
    readable = np.ones(total, dtype=bool)
    skipped: list[str] = []
    hasher = blake2b(digest_size=16)
    with (folder / "images.npy").open("wb") as stream:
        start = _header(stream, (total, channels, size, size))
        for row, (item, pixels) in enumerate(_decoded(kept, size, channels)):
            if pixels is None:
                readable[row] = False
                skipped.append(item[0])
            else:
                # plain writes, for the pages of a memory map would count as this process's memory
                stream.write(pixels.data)
                hasher.update(pixels.data)
            if progress is not None and ((row + 1) % 256 == 0 or row + 1 == total):
                progress(row + 1, total)
        _check_skipped(skipped, total, name)
        shape = (total - len(skipped), channels, size, size)
        stream.seek(0)
        if _header(stream, shape) != start:
            raise AssertionError("the header of images.npy changed its length")
    test = np.concatenate([np.full(len(y), shard.split == "test") for shard, y in zip(kept, labels, strict=True)])
    y = np.concatenate(labels)[readable]
    np.save(folder / "labels.npy", y)
    np.save(folder / "test.npy", test[readable])
    from inoculate.data.dataset import seal_digest

    note = {"classes": classes, "skipped": skipped, "digest": seal_digest(hasher, shape, y, classes)}
    (folder / "pool.json").write_text(json.dumps(note), encoding="utf-8")


def read_pool(folder: Path, name: str) -> Pool:
    """The pool in a whole folder; its images are mapped copy-on-write, so that nothing can change the cache."""
    import torch

    from inoculate.data.dataset import Dataset

    note = json.loads((folder / "pool.json").read_text(encoding="utf-8"))
    images = torch.from_numpy(np.load(folder / "images.npy", mmap_mode="c", allow_pickle=False))
    labels = torch.from_numpy(np.load(folder / "labels.npy", allow_pickle=False))
    test = np.load(folder / "test.npy", allow_pickle=False)
    split = Dataset(images, labels, tuple(note["classes"]), name, note["digest"], tuple(note["skipped"]))
    return Pool(split, test, bool(test.any()))


def sweep_partial(images: Path) -> None:
    """Remove what writers that were killed left behind: partial folders in which nothing was written for a day."""
    for folder in images.glob("*.partial"):
        times = [path.stat().st_mtime for path in [folder, *folder.glob("*")] if path.exists()]
        if times and time.time() - max(times) > _DAY:
            shutil.rmtree(folder, ignore_errors=True)


def _header(stream: BinaryIO, shape: tuple[int, ...]) -> int:
    """Write the .npy header for uint8 images and return where the pixels begin; numpy pads it for a changing length."""
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.tell()


def _decoded(shards: list[Shard], size: int, channels: int) -> Iterator[tuple[Item, Pixels | None]]:
    """Every image in order, large ones decoded by a few threads: Pillow lets go of the interpreter while it works."""
    workers = min(8, os.cpu_count() or 1)

    def work(chunk: list[Item]) -> list[Pixels | None]:
        return [None if payload is None else decode(payload, size, channels) for _, payload in chunk]

    with ThreadPoolExecutor(workers) as threads:
        for block in _chunks((item for shard in shards for item in shard.items()), 4 * workers * _CHUNK):
            chunks = list(_chunks(block, _CHUNK))
            # on small images threads spend more on taking turns than they save
            done = threads.map(work, chunks) if _bytes(block[0]) >= _THREADS_PAY else map(work, chunks)
            for chunk, pixels in zip(chunks, done, strict=True):
                yield from zip(chunk, pixels, strict=True)


def _bytes(item: Item) -> int:
    payload = item[1]
    if isinstance(payload, Path):
        return payload.stat().st_size
    return 0 if payload is None else len(payload)


def _chunks(items: Iterable[Item], length: int) -> Iterator[list[Item]]:
    stream = iter(items)
    while chunk := list(islice(stream, length)):
        yield chunk


def _check_skipped(skipped: list[str], total: int, name: str) -> None:
    first = ", ".join(skipped[:3]) + (", …" if len(skipped) > 3 else "")
    if len(skipped) > _MOST_UNREADABLE * total:
        raise InputError(
            f"{name}: {len(skipped)} of {total} images cannot be read (more than 1 %): {first}: replace or remove them"
        )
    if skipped:
        _log.warning("%s: left out %d of %d images that cannot be read: %s", name, len(skipped), total, first)
