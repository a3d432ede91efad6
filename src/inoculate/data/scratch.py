"""Arrays that may be too large for memory, in files without a name."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from inoculate.data.cache import cache_root

LARGE = 2**23  # bytes; smaller arrays stay in memory
_AT_ONCE = 2**22  # bytes


def scratch(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor on the CPU for other values; a large one lies in the cache folder, in a file that ends with it.

    The system writes such a tensor to the disk where it needs the memory. Without room on the disk it is in memory.
    """
    size = math.prod(shape) * dtype.itemsize
    if size >= LARGE:
        with contextlib.suppress(OSError):
            folder = cache_root() / "scratch"
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                if hasattr(os, "posix_fallocate"):  # else the disk could be full when a value is written
                    os.posix_fallocate(file.fileno(), 0, size)
                content = np.memmap(file, torch.empty(0, dtype=dtype).numpy().dtype, "r+", shape=tuple(shape))
            return torch.from_numpy(content)
    return torch.empty(*shape, dtype=dtype)


def rows_of(values: Tensor, index: Tensor) -> Tensor:
    """The rows of `values` at `index`; on the CPU, many are gathered in a `scratch` tensor."""
    if values.device.type != "cpu":
        return values[index]
    found = scratch((len(index), *values.shape[1:]), values.dtype)
    for part in parts_of(found):
        found[part] = values[index[part]]
    return found


def parts_of(values: Tensor) -> Iterator[slice]:
    """All rows of `values`, so many at a time that they need little memory."""
    size = len(values)
    step = max(1, _AT_ONCE * size // max(1, values.nbytes))
    return (slice(start, min(start + step, size)) for start in range(0, size, step))
