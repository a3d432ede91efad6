"""How many runs of an attack share a pass through the model."""

from __future__ import annotations

from torch import Tensor

MOST = 16  # times the caller's batch


def runs_at_once(x: Tensor, remaining: int) -> int:
    """How many runs fit one pass over `remaining` of the images `x`.

    Few images do not fill a device, so several runs share a pass, which holds at most `MOST` times the images of the
    caller's batch: the caller decides about the memory.
    """
    return max(1, max(len(x), min(full_batch(x), MOST * len(x))) // max(remaining, 1))


def full_batch(x: Tensor) -> int:
    """How many images of the size of `x` (B×C×H×W) keep its device busy: a GPU takes few in the time of many."""
    return int(2 ** (24 if x.is_cuda else 19) // max(x[:1].numel(), 1))
