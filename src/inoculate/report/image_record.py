"""What a run recorded of each image: its label and, under every row, its prediction; thumbnails of some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inoculate.artifacts.arrays import read_arrays
from inoculate.artifacts.files import read_json
from inoculate.core.errors import InputError
from inoculate.core.row import Row
from inoculate.core.stats import wilson

FACTS, PER_IMAGE, THUMBNAILS = "evaluation.json", "per_image.npz", "thumbnails.npz"


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """Per-image results of N images under R rows.

    Fields:
        labels: N. classes: names of the classes. sources: N file names, or none.
        right, finished: bool, R×N, by the place of the row. predicted: R×N, −1 where unknown.
        broken_by: R×N, a place among the row's `names`, −1 for none.
        thumbnails: uint8 pixels (H×W×C) by the number of the image.
    """

    labels: NDArray[np.int64]
    classes: Sequence[str]
    sources: Sequence[str]
    right: NDArray[np.bool_]
    finished: NDArray[np.bool_]
    predicted: NDArray[np.int64]
    broken_by: NDArray[np.int64]
    names: Sequence[Sequence[str]]
    thumbnails: Mapping[int, NDArray[np.uint8]]

    def name_of(self, number: int) -> str:
        """The name of a class; the number where it has none, and nothing where it is unknown (−1)."""
        if number < 0:
            return ""
        return str(self.classes[number]) if number < len(self.classes) else str(number)


@dataclass(frozen=True)
class ClassAccuracy:
    """Accuracy on the images of one class under one row."""

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


def accuracy_by_class(record: ImageRecord, place: int) -> list[ClassAccuracy]:
    """The accuracy of every class that has finished images, under the row at `place`; the worst first."""
    found = []
    for number in np.unique(record.labels):
        mine = (record.labels == number) & record.finished[place]
        if mine.any():
            correct = int((record.right[place] & mine).sum())
            found.append(ClassAccuracy(record.name_of(int(number)), correct, int(mine.sum())))
    return sorted(found, key=lambda each: (each.accuracy, each.name))


def read_image_record(folder: Path, rows: Sequence[Row]) -> ImageRecord | None:
    """What an evaluation left of its images in a folder; None where it did not record their labels.

    Raises `InputError` for files that do not fit the rows, or that cannot be read.
    """
    if not (folder / FACTS).is_file() or not (folder / PER_IMAGE).is_file() or not rows:
        return None
    facts = read_json(folder / FACTS)
    if not isinstance(facts, dict):
        raise InputError(f"{folder / FACTS} does not hold a JSON object: delete the folder and run again")
    labels = np.array(facts.get("labels", ()), dtype=np.int64)
    if not len(labels):
        return None
    arrays = read_arrays(folder / PER_IMAGE)
    wanted = ("right", "finished", "predicted", "broken_by")
    described = facts.get("results", [])
    if len(described) != len(rows) or any(
        name not in arrays or arrays[name].shape != (len(rows), len(labels)) for name in wanted
    ):
        raise InputError(f"{folder / PER_IMAGE} does not fit results.json: delete the folder and run again")
    small = read_arrays(folder / THUMBNAILS) if (folder / THUMBNAILS).is_file() else {}
    pictures = zip(small.get("numbers", ()), small.get("pixels", ()), strict=True)
    return ImageRecord(
        labels=labels, classes=facts.get("classes", ()), sources=facts.get("sources", ()),
        names=[each.get("names", ()) for each in described],
        thumbnails={int(number): pixels for number, pixels in pictures},
        **{name: arrays[name] for name in wanted},
    )  # fmt: skip
