"""The C library's allocator: large buffers are kept for the next step instead of being mapped anew at every one."""

from __future__ import annotations

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's names: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, on Linux with glibc; whether that was possible.

    By default every buffer above 32 MiB is mapped and zeroed by the kernel each time, which at 224 pixels costs a good
    part of a pass. The command line calls this once. It changes the whole process, so the library never does by itself.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018  # another C library has no such thresholds
    except (AttributeError, OSError, TypeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(_MMAP_THRESHOLD, _MOST)) and bool(mallopt(_TRIM_THRESHOLD, _MOST))


@cache
def keep_small_buffers() -> None:
    """Let this process keep freed buffers of up to 32 MiB, and 64 MiB in all, which is glibc's own limit.

    It sets these limits by the largest buffer that was freed so far. Until then a small network's pass gets its memory
    from the kernel, page by page, each time: up to a third of a forward pass. So one large buffer, which nothing
    writes to, is made and freed, once in each process.
    """
    import torch

    torch.empty(2**25 - 2**16, dtype=torch.uint8)
