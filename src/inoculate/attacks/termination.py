"""Early termination of runs that are unlikely to succeed any more."""

from __future__ import annotations

from torch import Tensor

from inoculate.core.errors import InputError


def check_termination_ratio(value: object) -> None:
    """Raise `InputError` unless `value` is a number above 0; infinity never terminates."""
    if not (isinstance(value, int | float) and value > 0):
        raise InputError(f"termination_ratio {value!r} is not usable: give a number above 0, or infinity for never")


def is_hopeless(first: Tensor, best: Tensor, ratio: float) -> Tensor:
    """Which runs (B, bool) to end: what is missing to the boundary exceeds `ratio` times what was gained so far.

    `first` and `best` (B) are the first and the highest value of an objective that is 0 at the boundary, such as the
    margin, so that −`best` is missing and `best` − `first` was gained. An image whose run ends is not adversarial yet.
    """
    return -best > ratio * (best - first)
