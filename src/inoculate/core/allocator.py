"""The C library's allocator: large buffers are kept for the next step instead of being mapped anew at every one."""

from __future__ import annotations

import ctypes

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
