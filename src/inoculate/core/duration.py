"""Durations as people write them."""

from __future__ import annotations

import re

from inoculate.core.errors import InputError

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_UNITS = (1, 3600, 60, 1)  # a bare number, hours, minutes, seconds


def parse_duration(duration: str | float) -> float:
    """A duration in seconds: `"90"`, `"90s"`, `"5m"`, `"2h"`, `"1h30m"`, or a number of seconds.

    Raises `InputError` for anything else, and for a duration that is not above 0.
    """
    if isinstance(duration, bool) or not isinstance(duration, str | int | float):
        raise InputError(f"time budget {duration!r} is not a duration: write it like 90s, 5m or 1h30m")
    text = str(duration).strip()
    found = re.fullmatch(rf"{_NUMBER}|(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?", text)
    parts = zip(_UNITS, found.groups() if found else (), strict=False)
    seconds = sum(unit * float(part) for unit, part in parts if part)
    if not 0 < seconds < float("inf"):
        raise InputError(f"time budget '{text}' is not a duration: write it like 90s, 5m or 1h30m")
    return seconds


def format_duration(seconds: float) -> str:
    """A duration for people: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
