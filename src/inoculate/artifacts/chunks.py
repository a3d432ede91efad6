"""Arrays with a row for each of many keys, kept in a folder as soon as they are known, some rows to a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inoculate.artifacts.arrays import read_arrays, write_arrays
from inoculate.core.errors import InputError

KEY = 16  # bytes
_KEYS = "keys"
Arrays = Mapping[str, NDArray[Any]]


class Chunks:
    """What was in `folder` when this began, and a way to add more; a key (bytes, `KEY` long) has one row.

    A file appears complete or not at all, so that whatever ends a process, no more is lost than what it had not added.
    Several processes may write into one folder. A file that cannot be read is ignored, and its rows are made again.
    What is added is not kept in memory: small arrays between those of a model's passes would take much more of it than
    their size.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts: list[dict[str, NDArray[Any]]] = []
        self._places: dict[bytes, tuple[int, int]] = {}  # the part that holds a key, and its row there
        for path in sorted(folder.glob("*.npz")):
            self._take(_read(path))

    @property
    def keys(self) -> set[bytes]:
        """Every key that was there."""
        return set(self._places)

    def find(self, keys: Sequence[bytes]) -> tuple[NDArray[np.intp], dict[str, NDArray[Any]]]:
        """The positions in `keys` of those that are known, and their rows of every array, in this order."""
        known = np.array([place for place, key in enumerate(keys) if key in self._places], dtype=np.intp)
        if not len(known):
            return known, {}
        parts, rows = np.array([self._places[keys[place]] for place in known]).T
        found: dict[str, NDArray[Any]] = {}
        for part in np.unique(parts):
            here = parts == part
            for name, array in self._parts[part].items():
                target = found.setdefault(name, np.empty((len(known), *array.shape[1:]), array.dtype))
                target[here] = array[rows[here]]
        return known, found

    def add(self, keys: Sequence[bytes], arrays: Arrays) -> None:
        """Keep the rows of these keys; all calls for one folder give arrays of the same names, types and row shapes."""
        content = {_KEYS: np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY), **arrays}
        name = hashlib.blake2b(content[_KEYS].tobytes(), digest_size=KEY).hexdigest()
        write_arrays(self.folder / f"{name}.npz", content)

    def _take(self, content: Mapping[str, NDArray[Any]]) -> None:
        if not content:
            return
        part = {name: array for name, array in content.items() if name != _KEYS}
        self._parts.append(part)
        for row, key in enumerate(content[_KEYS]):
            self._places[key.tobytes()] = (len(self._parts) - 1, row)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file; nothing where it is damaged."""
    try:
        content = read_arrays(path)
    except InputError:
        return {}
    keys = content.get(_KEYS)
    fits = keys is not None and keys.ndim == 2 and all(len(array) == len(keys) for array in content.values())
    return content if fits else {}
