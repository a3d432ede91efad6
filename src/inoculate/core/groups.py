"""Accuracy by group of images: counts, intervals, the worst group."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inoculate.core.errors import InputError
from inoculate.core.stats import wilson

FEW = 30  # images; the interval of a smaller group is wider than 30 points around a half
Groups = Mapping[str, Sequence[object]]  # by the name of a column, one value an image


@dataclass(frozen=True)
class GroupAccuracy:
    """Accuracy on the images of one group under one row."""

    name: str
    correct: int
    n: int

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval."""
        return wilson(self.correct, self.n)

    @property
    def is_small(self) -> bool:
        """Whether the group has too few images for a conclusion."""
        return self.n < FEW


def accuracy_by(values: Sequence[str], right: NDArray[Any], finished: NDArray[Any]) -> list[GroupAccuracy]:
    """The accuracy of every group that has finished images, the worst first; all arguments have one value an image."""
    names, group = np.unique(np.asarray(values, dtype=str), return_inverse=True)
    correct, n = (np.bincount(group[kept], minlength=len(names)) for kept in (right & finished, finished))
    counted = zip(names.tolist(), correct.tolist(), n.tolist(), strict=True)
    found = [GroupAccuracy(*each) for each in counted if each[-1]]
    return sorted(found, key=lambda each: (each.accuracy, each.name))


def named_groups(groups: Groups, images: int) -> dict[str, tuple[str, ...]]:
    """The groups with their values as text. Raises `InputError` for a column without one value for each image."""
    if not isinstance(groups, Mapping):
        raise InputError(f"groups should map the name of a column to its values, found {type(groups).__name__}")
    for column, values in groups.items():
        if isinstance(values, str) or not isinstance(values, Collection):
            raise InputError(f"groups '{column}' should be a list, one value an image; found {type(values).__name__}")
        if len(values) != images:
            raise InputError(f"groups '{column}' has {len(values)} values for {images} images: give one an image")
    return {column: tuple(map(str, values)) for column, values in groups.items()}
