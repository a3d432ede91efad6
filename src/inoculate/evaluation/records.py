"""Per-image results as a table, and adversarial images as files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from inoculate.artifacts.files import write_file
from inoculate.core.errors import InputError
from inoculate.core.pixels import eight_bits, to_float
from inoculate.core.row import Row
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.result import Evaluation
from inoculate.models.classes import match_classes
from inoculate.models.classifier import Classifier, prepare
from inoculate.models.loading.load import ModelLike, as_module

BATCH = 256


def write_records(found: Evaluation, path: str | PathLike[str]) -> Path:
    """Write one line per image and row of the evaluation as a Parquet file; returns its path.

    Columns:
        image: its number in the data.
        source: the file that it comes from, or null.
        label: its class.
        attack, norm, mask, severity, eps, seed: of the row.
        clean_predicted: class predicted without an attack.
        predicted: class predicted on the adversarial image, −1 if not finished.
        margin: the best wrong logit minus the true one, on the adversarial image.
        right: whether it is classified correctly.
        finished: False where time ran out.
        distance: of the adversarial image, in the row's norm.
        broken_by: the attack, or null.
        target: of a targeted attack the class that it drove the image to, or null.
        reached: whether the image is taken for that class; null without one.
        breaks_at: the smallest distance at which this attack broke the image at any eps; 0 if it is wrong clean, null
            if nothing did.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    require_parquet(path)
    smallest = _smallest_distances(found)
    table = pa.concat_tables([pa.table(_columns(found, row, smallest)) for row in found])
    return write_file(path, lambda stream: pq.write_table(table, stream))


def require_parquet(path: Path | None) -> None:
    """Raise `InputError` for a path that is not the name of a Parquet file."""
    if path is not None and path.suffix != ".parquet":
        raise InputError(f"{path}: the records are written as Parquet, give a name that ends in .parquet")


def _columns(found: Evaluation, row: Row, smallest: dict[tuple[str, str], Tensor]) -> dict[str, Any]:
    import pyarrow as pa

    result, n = found.per_image[row], len(found.labels)
    targets = np.full(n, -1) if result.target is None else result.target.numpy()
    no_target = targets < 0
    at = smallest.get((row.attack, row.space), torch.full((n,), torch.inf)).tolist()
    return {
        "image": np.arange(n), "source": pa.array(found.sources or [None] * n, pa.string()),
        "label": found.labels.numpy(),
        "attack": [row.attack] * n, "norm": [row.norm] * n, "mask": [row.mask] * n,
        "severity": np.full(n, row.severity), "eps": np.full(n, row.eps),
        "seed": np.full(n, row.seed),
        "clean_predicted": found.per_image[found[0]].predicted.numpy(), "predicted": result.predicted.numpy(),
        "margin": result.margin.numpy(), "right": result.right.numpy(), "finished": result.finished.numpy(),
        "distance": result.distance.numpy(),
        "broken_by": pa.array([result.names[i] if i >= 0 else None for i in result.broken_by.tolist()], pa.string()),
        "target": pa.array(targets, pa.int64(), mask=no_target),
        "reached": pa.array(result.reached.numpy(), pa.bool_(), mask=no_target),
        "breaks_at": pa.array([each if each < float("inf") else None for each in at], pa.float64()),
    }  # fmt: skip


def _smallest_distances(found: Evaluation) -> dict[tuple[str, str], Tensor]:
    """By attack, norm and mask, the smallest distance (N) at which the attack broke each image at any eps."""
    clean, smallest = found.per_image[found[0]].right, dict[tuple[str, str], Tensor]()
    for row in found.rows[1:]:
        result, key = found.per_image[row], (row.attack, row.space)
        if not row.has_eps:  # whose size is no distance
            continue
        at = torch.where(~result.right & result.finished, result.distance, torch.inf)
        smallest[key] = torch.minimum(smallest.get(key, at), torch.where(clean, at, 0.0))
    return smallest


@dataclass(frozen=True)
class SavedImages:
    """The images written for one row: `files` by image number, and how many still fool the model once read back."""

    row: Row
    files: dict[int, Path]
    misclassified: int

    def __str__(self) -> str:
        still = f"{self.misclassified} of them still misclassified when read back"
        return f"{self.row.attack} eps {self.row.eps:.4g}: {len(self.files)} images saved, {still}"


def save_images(found: Evaluation, model: ModelLike, data: Dataset, folder: str | PathLike[str]) -> list[SavedImages]:
    """Write the misclassified adversarial images as 8-bit PNGs that stay inside the ball, and verify them.

    Only images that an attack broke are written:
    `<folder>/<attack>/<norm>-<eps>[-<mask>]/<image>-<true class>-as-<predicted class>.png`. They are then read back and
    shown to the model again.

    Args:
        found: from `evaluate(model, data, ...)` with `keep_images`.
        model: the same model.
        data: the same data.
        folder: where the images go.

    Raises `InputError` where no images were kept, and for images that are neither grey nor RGB.
    """
    if not found.images:
        raise InputError("the evaluation kept no images: evaluate with keep_images")
    if data.channels not in (1, 3):
        raise InputError(f"images with {data.channels} channels cannot be saved as PNG: they must be grey or RGB")
    network, data = match_classes(as_module(model, data), data)
    classifier = prepare(network, data, precision="exact")
    saved = []
    for row, images in found.images.items():
        files = _write(found.per_image[row], images, data, row, Path(folder))
        saved.append(SavedImages(row, files, _count_misclassified(classifier, data, files)))
    return saved


def _write(result: PerSampleResult, images: Tensor, data: Dataset, row: Row, folder: Path) -> dict[int, Path]:
    place = folder / row.attack / f"{row.norm}-{row.eps:g}{row.mask and f'-{_plain(row.mask)}'}"
    rows = (result.broken_by >= 0).nonzero().squeeze(1)
    pixels = eight_bits(images[rows], data.images[rows], Threat(row.norm, row.eps))  # type: ignore[arg-type]
    files = {}
    for number, image in zip(rows.tolist(), pixels, strict=True):
        classes = (data.classes[int(data.labels[number])], data.classes[int(result.predicted[number])])
        path = place / f"{number:06}-{'-as-'.join(map(_plain, classes))}.png"
        array = image.permute(1, 2, 0).numpy()
        picture = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
        files[number] = write_file(path, partial(picture.save, format="png"))
    return files


def _count_misclassified(classifier: Classifier, data: Dataset, files: dict[int, Path]) -> int:
    """How many of the images on disk the model misclassifies."""
    count = 0
    with classifier.ready():
        for numbers in _batches(list(files)):
            pixels = torch.stack([_read(files[number]) for number in numbers])
            labels = data.labels[torch.tensor(numbers)].to(classifier.device)
            prediction = classifier.predict(classifier.placed(to_float(pixels.to(classifier.device))), labels)
            count += int((~prediction.right).sum())
    return count


def _batches(numbers: list[int]) -> Iterator[list[int]]:
    return (numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH))


def _read(path: Path) -> Tensor:
    array = np.asarray(Image.open(path))
    return torch.from_numpy(array.copy()).view(*array.shape[:2], -1).permute(2, 0, 1)


def _plain(name: str) -> str:
    """A class name as part of a file name."""
    return "".join(c if c.isalnum() else "_" for c in name)[:40]
