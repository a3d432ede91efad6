"""How many threads a worker computes with."""

from __future__ import annotations

import os
import sys

from inoculate.core.extras import is_installed

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def available_cores() -> int:
    """The processors that this process may use; fewer if `OMP_NUM_THREADS` says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(asked)) if asked.isdigit() and int(asked) else cores


def limit_threads(count: int) -> None:
    """Let this process, and those that it starts, compute with `count` threads each.

    Workers with a thread for every processor slow each other down several times.
    """
    os.environ.update(dict.fromkeys(_VARIABLES, str(count)))
    if "torch" in sys.modules:  # libraries read the variables when they are loaded
        sys.modules["torch"].set_num_threads(count)
    if "numpy" in sys.modules and is_installed("threadpoolctl"):  # comes with scikit-learn
        from threadpoolctl import threadpool_limits

        threadpool_limits(count)
