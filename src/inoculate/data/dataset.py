"""Labelled images in memory or on disk, and seeded, stratified ways to divide them."""

from __future__ import annotations

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

Indices = NDArray[np.int64]
_HASH_ROWS = 4096  # images hashed at a time, so that a memory-mapped array is never read whole


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images with class names and a content hash.

    images: uint8, N×C×H×W in 0..255, C 1 (grey) or 3 (RGB), perhaps memory-mapped: never write into it.
    labels: int64, N, in 0..K-1 for K `classes`. digest: hex; equal content gives an equal digest, and that of a
    subset follows from its parent's digest and the indices. skipped: names of the source's unreadable images, left out.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str
    digest: str
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return int(self.images.shape[1])

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return int(self.images.shape[2]), int(self.images.shape[3])

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel over at most 10,000 images, in [0, 1], to four places."""
        sample = self.images[:: max(1, len(self) // 10_000)].float() / 255
        mean, std = sample.mean(dim=(0, 2, 3)), sample.std(dim=(0, 2, 3)).clamp_min(1e-2)
        return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())

    def subset(self, indices: Tensor | NDArray[Any] | Sequence[int]) -> Dataset:
        """The images at `indices` (integers in 0..N-1), in that order; a consecutive run is a view, the rest a copy.

        Raises InputError for indices out of range or not integers.
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
        return replace(self, images=self.images[take], labels=self.labels[take], digest=digest)

    def limit(self, n: int, seed: int) -> Dataset:
        """A seeded, stratified subset of `n` images in their own order, one of each class at least where n allows.

        Returns the split itself when n ≥ N. Raises InputError for n < 1.
        """
        if n < 1:
            raise InputError(f"--limit must be at least 1 image, got {n}")
        if n >= len(self):
            return self
        labels = self.labels.cpu().numpy()
        counts = np.bincount(labels, minlength=len(self.classes))
        chosen, _ = _draw(labels, allocate(counts, n, counts), np.random.default_rng(seed))
        return self.subset(chosen)

    @staticmethod
    def from_tensors(
        images_uint8: Tensor, labels: Tensor, classes: Sequence[str] | None = None, name: str = "tensors"
    ) -> Dataset:
        """A split from tensors you already hold: images uint8 N×C×H×W (C 1 or 3), labels integers N in 0..K-1.

        Without `classes` they are named "0", "1", … up to the largest label. Raises InputError for anything else.
        """
        _check_images(images_uint8, name)
        labels = _check_labels(labels, len(images_uint8), name)
        names = tuple(str(i) for i in range(int(labels.max()) + 1)) if classes is None else tuple(map(str, classes))
        if len(names) < 2:
            raise InputError(f"{name}: a classifier needs at least 2 classes, got {len(names)}")
        if int(labels.max()) >= len(names):
            raise InputError(
                f"{name}: label {int(labels.max())} is outside 0..{len(names) - 1}, the {len(names)} classes"
            )
        return Dataset(images_uint8, labels, names, name, content_digest(images_uint8, labels, names))


@dataclass(frozen=True)
class Parts:
    """Row numbers (int64, ascending) of three disjoint parts that together cover everything."""

    train: Indices
    val: Indices
    test: Indices


def partition(
    labels: Tensor | NDArray[Any],
    *,
    seed: int,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    test_mask: NDArray[np.bool_] | None = None,
    classes: Sequence[str] | None = None,
) -> Parts:
    """Divide images, by seed, into stratified train, validation and test parts: 70/10/20 % as the paper does.

    labels: integers ≥ 0, N. test_mask: bool N, the source's own test images; the test part is then exactly these and
    the rest is shared between train and validation in the ratio of their fractions. Every class gets at least one
    image in every part that is drawn (rare classes too, which rounding alone, as in scikit-learn's
    `train_test_split`, would leave out). Raises InputError naming a class with too few images for that.
    """
    y = np.asarray(labels).astype(np.int64)
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"the parts' fractions must be positive and sum to 1, got {fractions}")
    rng = np.random.default_rng(seed)
    free = np.arange(len(y)) if test_mask is None else np.flatnonzero(~test_mask)
    counts = np.bincount(y[free], minlength=1)
    drawn = 2 if test_mask is not None else 3
    _check_counts(counts, drawn, "train and validation" if drawn == 2 else "train, validation and test", classes)
    if test_mask is None:
        test_counts = allocate(counts, round(fractions[2] * len(free)), counts - 2)
        test, free = _draw(y, test_counts, rng, free)
        counts = counts - test_counts
    else:
        test = np.flatnonzero(test_mask)
    share = fractions[1] / (fractions[0] + fractions[1])
    val, train = _draw(y, allocate(counts, round(share * len(free)), counts - 1), rng, free)
    return Parts(train.astype(np.int64), val.astype(np.int64), test.astype(np.int64))


def undersample(labels: Tensor | NDArray[Any], seed: int) -> Indices:
    """Ascending row numbers of a seeded choice that leaves every class present as many images as the smallest has."""
    y = np.asarray(labels).astype(np.int64)
    counts = np.bincount(y, minlength=1)
    quota = np.where(counts > 0, counts[counts > 0].min(initial=len(y)), 0)
    chosen, _ = _draw(y, quota, np.random.default_rng(seed))
    return chosen


def content_digest(images: Tensor, labels: Tensor, classes: Sequence[str]) -> str:
    """Hex hash of pixels, labels and class names, in the order in which a decoder learns them."""
    hasher = blake2b(digest_size=16)
    for start in range(0, len(images), _HASH_ROWS):
        hasher.update(images[start : start + _HASH_ROWS].contiguous().cpu().numpy().tobytes())
    return seal_digest(hasher, tuple(images.shape), labels.cpu().numpy(), classes)


def seal_digest(hasher: blake2b, shape: tuple[int, ...], labels: NDArray[Any], classes: Sequence[str]) -> str:
    """Finish a hash that has seen the pixels: a stream knows how many images there are only at its end."""
    hasher.update(json.dumps([list(shape), list(classes)]).encode())
    hasher.update(labels.astype("<i8").tobytes())
    return hasher.hexdigest()


def allocate(counts: NDArray[Any], total: int, most: NDArray[Any]) -> Indices:
    """How many of each class make up `total` in proportion to `counts`: at least 1 where it can be, at most `most`.

    Largest remainders first; the total is brought within reach of these bounds when it is not, except that a total
    below the number of classes leaves the smallest classes out only when `most` allows all of them (a plain limit).
    """
    least = np.minimum((counts > 0).astype(np.int64), most)
    if total < least.sum() and np.array_equal(most, counts):
        least = np.zeros_like(least)
    total = int(np.clip(total, least.sum(), most.sum()))
    ideal = total * counts / max(int(counts.sum()), 1)
    quota = np.clip(np.floor(ideal).astype(np.int64), least, most)
    while quota.sum() != total:
        step = 1 if quota.sum() < total else -1
        movable = quota < most if step > 0 else quota > least
        gap = np.where(movable, (ideal - quota) * step, -np.inf)
        quota[int(np.argmax(gap))] += step
    return quota


def _draw(
    y: NDArray[np.int64], quota: NDArray[Any], rng: np.random.Generator, among: NDArray[Any] | None = None
) -> tuple[Indices, Indices]:
    """Choose quota[k] rows of class k among `among` (all by default): the chosen and the others, both ascending."""
    rows = np.arange(len(y)) if among is None else among
    of_class = y[rows]
    chosen = np.zeros(len(rows), dtype=bool)
    for k in np.flatnonzero(quota):
        chosen[rng.permutation(np.flatnonzero(of_class == k))[: quota[k]]] = True
    return rows[chosen].astype(np.int64), rows[~chosen].astype(np.int64)


def _check_counts(counts: NDArray[Any], needed: int, parts: str, classes: Sequence[str] | None) -> None:
    poor = np.flatnonzero((counts > 0) & (counts < needed))
    if poor.size:
        k = int(poor[0])
        named = repr(classes[k]) if classes is not None else str(k)
        more = f" (and {poor.size - 1} more classes)" if poor.size > 1 else ""
        images = "image" if counts[k] == 1 else "images"
        raise InputError(
            f"class {named} has {counts[k]} {images}{more}, but {parts} each need one of every class: "
            f"add images until it has at least {needed}, or remove the class"
        )
    if not counts.sum():
        raise InputError(f"no images to divide into {parts}: give at least {needed} of every class")


def _check_images(images: Tensor, name: str) -> None:
    if images.is_floating_point():
        if bool(torch.isnan(images).any()):
            raise InputError(f"{name}: the images hold NaN and are {images.dtype}: repair them, then pass uint8 0..255")
        raise InputError(
            f"{name}: images must be uint8 in 0..255, got {images.dtype}: for images in [0, 1] pass "
            "(images * 255).round().to(torch.uint8)"
        )
    if images.dtype != torch.uint8:
        raise InputError(f"{name}: images must be uint8 in 0..255, got {images.dtype}: use images.to(torch.uint8)")
    if images.ndim != 4:
        raise InputError(f"{name}: images must be N×C×H×W (4 dimensions), got shape {tuple(images.shape)}")
    if 0 in images.shape:
        raise InputError(f"{name}: there are no images, got shape {tuple(images.shape)}")
    if images.shape[1] not in (1, 3):
        hint = ": use images.permute(0, 3, 1, 2)" if images.shape[3] in (1, 3) else ""
        raise InputError(f"{name}: images must have 1 or 3 channels (N×C×H×W), got {images.shape[1]}{hint}")


def _check_labels(labels: Tensor, n: int, name: str) -> Tensor:
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"{name}: labels must be integers, got {labels.dtype}: use labels.long()")
    if labels.ndim != 1 or len(labels) != n:
        raise InputError(f"{name}: {n} images need {n} labels in one row, got shape {tuple(labels.shape)}")
    if int(labels.min()) < 0:
        raise InputError(f"{name}: labels must be 0 or more, got {int(labels.min())}: drop unlabelled images first")
    return labels.long()
