"""Checks of options, each raising `InputError` with the option's name, the value and what it must be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

from inoculate.core.errors import InputError, suggest


def require_count(**values: object) -> None:
    """Each must be a whole number of at least 1."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name} {value!r} is not usable: give a whole number of at least 1")


def require_positive(**values: object) -> None:
    """Each must be a finite number above 0."""
    for name, value in values.items():
        if not (is_number(value) and 0 < value < math.inf):
            raise InputError(f"{name} {value!r} is not usable: give a number above 0")


def require_nonnegative(**values: object) -> None:
    """Each must be a finite number of at least 0."""
    for name, value in values.items():
        if not (is_number(value) and 0 <= value < math.inf):
            raise InputError(f"{name} {value!r} is not usable: give a number of at least 0")


def require_fraction(**values: object) -> None:
    """Each must be a number from 0 to 1."""
    for name, value in values.items():
        if not (is_number(value) and 0 <= value <= 1):
            raise InputError(f"{name} {value!r} is not usable: give a number from 0 to 1")


def require_bool(**values: object) -> None:
    """Each must be true or false."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise InputError(f"{name} {value!r} is not usable: give true or false")


def require_text(**values: object) -> None:
    """Each must be text."""
    for name, value in values.items():
        if not isinstance(value, str):
            raise InputError(f"{name} {value!r} is not usable: give its name as text")


def require_one_of(valid: Sequence[str], **values: object) -> None:
    """Each must be one of `valid`; the error names the nearest."""
    for name, value in values.items():
        if value not in valid:
            raise InputError(f"{name} '{value}' is unknown: {suggest(str(value), valid)}")


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number, which a truth value is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
