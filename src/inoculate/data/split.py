"""Seeded, stratified ways to divide labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inoculate.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Indices = NDArray[np.int64]


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
    """Divide images into seeded, stratified train, validation and test parts; by default 70, 10 and 20 %.

    labels: integers ≥ 0, N. test_mask: bool N, the source's own test images; the test part is then exactly these and
    the rest is divided between train and validation in the ratio of their fractions. Every class gets at least one
    image in every part that is drawn; rounding alone would leave rare classes out. Raises `InputError` naming a class
    with too few images for that.
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


def stratified_sample(labels: Tensor | NDArray[Any], n: int, *, seed: int) -> Indices:
    """Ascending row numbers of `n` images, drawn by seed in proportion to the classes; each has one where n allows.

    labels: integers ≥ 0, N, with n ≤ N.
    """
    y = np.asarray(labels).astype(np.int64)
    counts = np.bincount(y, minlength=1)
    chosen, _ = _draw(y, allocate(counts, n, counts), np.random.default_rng(seed))
    return chosen


def undersample(labels: Tensor | NDArray[Any], seed: int) -> Indices:
    """Ascending row numbers, drawn by seed, that leave every class as many images as the smallest class present has."""
    y = np.asarray(labels).astype(np.int64)
    counts = np.bincount(y, minlength=1)
    quota = np.where(counts > 0, counts[counts > 0].min(initial=len(y)), 0)
    chosen, _ = _draw(y, quota, np.random.default_rng(seed))
    return chosen


def allocate(counts: NDArray[Any], total: int, most: NDArray[Any]) -> Indices:
    """How many images of each class make up `total` in proportion to `counts`, by largest remainders.

    Every class present gets at least 1 and at most `most`; a total outside these bounds is clipped to them. With
    `most` equal to `counts`, a total below the number of classes leaves the smallest classes out instead.
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
    """Choose quota[k] rows of class k from `among` (default: all rows); return the chosen and the others, ascending."""
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
