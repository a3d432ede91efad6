"""Orders in which names of classes are sorted."""

from __future__ import annotations

import re
from collections.abc import Sequence


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A sort key that compares numbers in names as numbers: `class2` before `class10`."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def sorted_as_text(classes: Sequence[str]) -> bool:
    """Whether names of classes that hold numbers are in alphabetical order: `10` before `2`."""
    return list(classes) == sorted(classes) != sorted(classes, key=natural_key)
