"""What a run recorded of each image: its label and, under every row, its prediction; thumbnails of some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inoculate.artifacts.arrays import read_arrays
from inoculate.artifacts.files import read_json
from inoculate.core.errors import InputError
from inoculate.core.groups import GroupAccuracy, accuracy_by, named_groups
from inoculate.core.row import Row

FACTS, PER_IMAGE, THUMBNAILS = "evaluation.json", "per_image.npz", "thumbnails.npz"


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """Per-image results of N images under R rows.

    Fields:
        labels: N. classes: names of the classes. sources: N file names, or none.
        right, finished: bool, R×N, by the place of the row. predicted: R×N, −1 where unknown.
        broken_by: R×N, a place among the row's `names`, −1 for none.
        thumbnails: uint8 pixels (H×W×C) by the number of the image.
        groups: by the name of a column, the group of each image (N).
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
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def name_of(self, number: int) -> str:
        """The name of a class; the number where it has none, and nothing where it is unknown (−1)."""
        if number < 0:
            return ""
        return str(self.classes[number]) if number < len(self.classes) else str(number)


def accuracy_by_class(record: ImageRecord, place: int) -> list[GroupAccuracy]:
    """The accuracy of every class that has finished images, under the row at `place`; the worst first."""
    names = [record.name_of(int(number)) for number in record.labels]
    return accuracy_by(names, record.right[place], record.finished[place])


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
        groups=named_groups(facts.get("groups") or {}, len(labels)),
        thumbnails={int(number): pixels for number, pixels in pictures},
        **{name: arrays[name] for name in wanted},
    )  # fmt: skip
