"""The train, val and test parts of a dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from inoculate.artifacts.files import read_json, write_json
from inoculate.core.errors import InputError
from inoculate.core.rng import generator
from inoculate.data.dataset import Dataset
from inoculate.data.load import decode_source
from inoculate.data.sources import Source
from inoculate.data.split import Parts, partition, stratified_sample
from inoculate.study.config import Study

LABELS = "labels.npy"  # of the test part


@dataclass(frozen=True, eq=False)
class SplitData:
    """The parts of a dataset, which images of the pool they are, and the pool's content hash, skipped files, notes."""

    train: Dataset
    val: Dataset
    test: Dataset
    parts: Parts
    digest: str
    skipped: tuple[str, ...]
    notes: tuple[str, ...]


def load_split(
    study: Study, source: Source, name: str, seed: int, progress: Callable[[str, int, int], None] | None = None
) -> SplitData:
    """Decode the study's dataset `name` (or find it decoded) and split it.

    The test part is shuffled, so that its beginning is a random sample. Raises `InputError` for a dataset without the
    test split that the study asks for.
    """
    config = study.datasets[name]
    decoded = decode_source(source, config.preprocessing, progress=progress)
    data = replace(decoded.data, name=name)
    kept = np.arange(len(data))
    if study.limit is not None and study.limit < len(data):
        kept = stratified_sample(data.labels, study.limit, seed=0)
    if study.split.official_test and not decoded.has_test:
        raise InputError(f"{name} has no test split of its own: set official_test: false")
    official = decoded.official_test[kept] if study.split.official_test else None
    fractions = (study.split.train, study.split.val, study.split.test)
    parts = partition(data.labels[kept], seed=seed, fractions=fractions, test_mask=official)
    parts = Parts(*(kept[part] for part in (parts.train, parts.val, parts.test)))
    order = torch.randperm(len(parts.test), generator=generator(seed, "test order")).numpy()
    parts = replace(parts, test=parts.test[order])
    train, val, test = (data.subset(part) for part in (parts.train, parts.val, parts.test))
    return SplitData(train, val, test, parts, data.digest, data.skipped, data.notes)


def save_split(folder: Path, data: SplitData) -> None:
    """Write the indices of the parts in the pool, the pool's content hash, and the labels of the test part."""
    np.savez(folder / "indices.npz", train=data.parts.train, val=data.parts.val, test=data.parts.test)
    np.save(folder / LABELS, data.test.labels.numpy(), allow_pickle=False)
    facts = {"digest": data.digest, "skipped": list(data.skipped), "notes": list(data.notes)}
    write_json(folder / "split.json", {**facts, "classes": data.train.classes})


def check_split(folder: Path, data: SplitData) -> None:
    """Raise `InputError` if the artefact in `folder` holds other images or another split than `data`.

    Networks in the same store were trained on the stored split: on another one, they would be tested on training
    images.
    """
    stored = np.load(folder / "indices.npz", allow_pickle=False)
    same = all(np.array_equal(stored[name], getattr(data.parts, name)) for name in ("train", "val", "test"))
    if not same or read_json(folder / "split.json")["digest"] != data.digest:
        raise InputError(
            f"{data.train.name}: images or their split differ from those that this store was made with "
            "(another library version?): give another output folder"
        )
