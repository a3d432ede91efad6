"""Arrays by name in one compressed file, never pickled."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inoculate.artifacts.files import write_file
from inoculate.core.errors import InputError


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Path:
    """Write arrays as a compressed npz file, atomically."""
    contents: dict[str, Any] = dict(arrays)
    return write_file(path, lambda stream: np.savez_compressed(stream, **contents))


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `write_arrays` wrote; raises `InputError` for a file that is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read ({error}): delete the folder and run again") from None
