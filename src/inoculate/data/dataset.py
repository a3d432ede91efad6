"""Labelled images in memory or on disk."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inoculate.core.errors import InputError
from inoculate.data.class_order import sorted_as_text
from inoculate.data.scratch import rows_of
from inoculate.data.split import stratified_sample
from inoculate.data.tensors import FROM_ONE, ONE_HOT_CONVERTED, class_names, class_numbers, uint8_images

_HASH_ROWS = 4096  # images hashed at a time, so that a memory-mapped array is never read whole


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Labelled images with class names and a content hash.

    Fields:
        images: uint8, N×C×H×W in 0..255, C 1 (grey) or 3 (RGB), perhaps memory-mapped: never write into it.
        labels: int64, N, in 0..K-1.
        classes: K names.
        digest: hex; equal content gives an equal digest, and that of a subset follows from its parent's digest and the
            indices.
        skipped: names of unreadable images that the source holds and `images` does not.
        notes: what was converted or left out to make it, in sentences.
        sources: N names in UTF-8 of the files or rows that the images come from (perhaps memory-mapped), None where
            there are none.
        origin: digest of the files or of the hub's dataset that the images were decoded from; empty for other data.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str
    digest: str
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sources: NDArray[np.bytes_] | None = None
    origin: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.images.shape[1:]))
        return f"Dataset({self.name}: {len(self)} images {shape}, {len(self.classes)} classes, digest {self.digest})"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return int(self.images.shape[1])

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return int(self.images.shape[2]), int(self.images.shape[3])

    def summary(self) -> str:
        """What the data are and how they were made, in one line."""
        counts = torch.bincount(self.labels, minlength=len(self.classes))
        height, width = self.image_size
        kind = "grey" if self.channels == 1 else "RGB"
        text = (
            f"{self.name}: {len(self)} {kind} images of {height}×{width} pixels, {len(self.classes)} classes "
            f"of {int(counts.min())} to {int(counts.max())} images"
        )
        order = ("classes are sorted as text (10 before 2)",) if sorted_as_text(self.classes) else ()
        return "; ".join((text, *order, *self.notes))

    def source_names(self) -> list[str]:
        """The file (and row) that each image comes from, below the data's folder; empty where none is known."""
        return [] if self.sources is None else [name.decode("utf-8", "replace") for name in self.sources.tolist()]

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel over at most 10,000 images, in [0, 1], to four places."""
        sample = self.images[:: max(1, len(self) // 10_000)].float() / 255
        mean, std = sample.mean(dim=(0, 2, 3)), sample.std(dim=(0, 2, 3)).clamp_min(1e-2)
        return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())

    def subset(self, indices: Tensor | NDArray[Any] | Sequence[int]) -> Dataset:
        """The images at `indices` (integers in 0..N-1), in that order; a consecutive range is a view, others a copy.

        A large copy lies on the disk (see `scratch`).

        Raises `InputError` for indices out of range or not integers.
        """
        array = np.asarray(indices.cpu().numpy() if isinstance(indices, Tensor) else indices)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise InputError(f"{self.name}: indices must be one row of integers, got {array.dtype} {array.shape}")
        index = array.astype("<i8")
        if index.size and (index.min() < 0 or index.max() >= len(self)):
            raise InputError(f"{self.name}: indices must lie in 0..{len(self) - 1}, got {index.min()}..{index.max()}")
        digest = blake2b(self.digest.encode() + index.tobytes(), digest_size=16).hexdigest()
        take: slice | Tensor = torch.from_numpy(index)
        if index.size and bool(np.all(np.diff(index) == 1)):
            take = slice(int(index[0]), int(index[-1]) + 1)
        sources = None if self.sources is None else self.sources[take if isinstance(take, slice) else index]
        images = self.images[take] if isinstance(take, slice) else rows_of(self.images, take)
        return replace(self, images=images, labels=self.labels[take], digest=digest, sources=sources)

    def limit(self, n: int, seed: int = 0) -> Dataset:
        """A seeded, stratified subset of `n` images in their own order, at least one of each class where n allows.

        Returns the dataset itself when n ≥ N. Raises `InputError` for n < 1.
        """
        if n < 1:
            raise InputError(f"limit {n} is not usable: give at least 1 image")
        return self if n >= len(self) else self.subset(stratified_sample(self.labels.cpu(), n, seed=seed))

    @staticmethod
    def from_tensors(images: Any, labels: Any, classes: Sequence[str] | None = None, name: str = "tensors") -> Dataset:
        """A dataset from tensors or arrays.

        images: N×C×H×W with C 1 or 3; uint8 in 0..255, or floats in [0, 1] that hold 8-bit values. labels: N class
        numbers in 0..K-1 of any integer or float type, names out of `classes`, or one-hot rows N×K. Without `classes`
        these are named "0", "1", … up to the largest label. Raises `InputError` for anything that cannot be converted
        exactly.
        """
        pixels, converted = uint8_images(images, name)
        numbers, columns = class_numbers(labels, len(pixels), name, classes)
        names = class_names(numbers, classes, columns, name)
        notes = converted if columns is None else (*converted, ONE_HOT_CONVERTED)
        notes = (*notes, FROM_ONE) if classes is None and int(numbers.min()) == 1 else notes
        return Dataset(pixels, numbers, names, name, content_digest(pixels, numbers, names), notes=notes)


def content_digest(images: Tensor, labels: Tensor, classes: Sequence[str]) -> str:
    """Hex hash of pixels, labels and class names."""
    hasher = blake2b(digest_size=16)
    for start in range(0, len(images), _HASH_ROWS):
        hasher.update(images[start : start + _HASH_ROWS].contiguous().cpu().numpy().tobytes())
    return finish_digest(hasher, tuple(images.shape), labels.cpu().numpy(), classes)


def finish_digest(hasher: blake2b, shape: tuple[int, ...], labels: NDArray[Any], classes: Sequence[str]) -> str:
    """The content digest from a hash of the pixels alone: a stream knows the number of images only at its end."""
    hasher.update(json.dumps([list(shape), list(classes)]).encode())
    hasher.update(labels.astype("<i8").tobytes())
    return hasher.hexdigest()
