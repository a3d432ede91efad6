"""Raw labels of a whole source to numbers 0..K-1 and class names."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inoculate.core.errors import InputError
from inoculate.data.readers import Shard

_log = logging.getLogger(__name__)


def resolve_labels(shards: list[Shard], name: str) -> tuple[list[Shard], list[NDArray[np.int64]], tuple[str, ...]]:
    """The shards that have labels, these as int64 in 0..K-1, and the K class names (stored ones, else sorted values).

    A split in which every label is missing or -1 (an unpublished test set) is left out with a warning.
    Raises `InputError` naming shard and row of any other label that is missing, negative or out of range.
    """
    kept = _labelled(shards, name)
    stored = {shard.names for shard in kept}
    if len(stored) > 1:
        raise InputError(f"{name}: the shards do not agree on the class names: keep shards of one dataset only")
    names = next(iter(stored), None)
    values = names if names is not None else _distinct(kept, name)
    index = {i: i for i in range(len(names))} if names is not None else {v: i for i, v in enumerate(values)}
    labels = [_numbers(shard, index, names) for shard in kept]
    present = set().union(*(np.unique(part).tolist() for part in labels)) if labels else set()
    if len(present) < 2:
        only = f" ({values[present.pop()]})" if present else ""
        raise InputError(
            f"{name} has images of {'one class only' if only else 'no class'}{only}: it needs at least 2 classes"
        )
    return kept, labels, tuple(map(_class_name, values))


def _labelled(shards: list[Shard], name: str) -> list[Shard]:
    unlabelled = set()
    for split in {shard.split for shard in shards}:
        raw = [label for shard in shards if shard.split == split for label in shard.labels]
        if raw and all(label is None or (_whole_number(label) and label == -1) for label in raw):
            _log.warning("%s: the %d images of split %s have no labels and are left out", name, len(raw), split)
            unlabelled.add(split)
    return [shard for shard in shards if shard.labels and shard.split not in unlabelled]


def _whole_number(label: Any) -> bool:
    return isinstance(label, int) or (isinstance(label, float) and label.is_integer())


def _class_name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) else str(value)


def _distinct(shards: list[Shard], name: str) -> list[Any]:
    """Sorted distinct labels of a dataset that stores no class names."""
    for shard in shards:
        for row, label in enumerate(shard.labels):
            if not isinstance(label, str) and (not _whole_number(label) or label < 0):
                raise _label_error(shard, row, "whole numbers from 0, or text")
    distinct = set().union(*(shard.labels for shard in shards)) if shards else set()
    if len({isinstance(label, str) for label in distinct}) > 1:
        raise InputError(f"{name}: some labels are text and some are numbers: use one kind")
    return sorted(distinct)


def _numbers(shard: Shard, index: dict[Any, int], names: tuple[str, ...] | None) -> NDArray[np.int64]:
    found = [index.get(label) for label in shard.labels]
    if None in found:
        raise _label_error(shard, found.index(None), f"0..{len(names or index) - 1}, the classes that it names")
    return np.array(found, dtype=np.int64)


def _label_error(shard: Shard, row: int, allowed: str) -> InputError:
    return InputError(
        f"{shard.name}, row {row}: label {shard.labels[row]!r}, but labels must be {allowed}: correct or drop it"
    )
