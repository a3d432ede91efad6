"""Options of training methods as text on the command line."""

from __future__ import annotations

import re
from typing import Any

from inoculate.core.errors import InputError


def parse_options(texts: list[str] | None) -> dict[str, Any]:
    """`["steps=7", "own=false"]` as a mapping of numbers and truth values; raises `InputError` for anything else."""
    found: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InputError(f"option '{text}' is not understood: write it like steps=7")
        found[name.strip()] = _value(value.strip(), text)
    return found


def _value(value: str, text: str) -> bool | int | float:
    from inoculate.core.threat import parse_eps

    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if re.fullmatch(r"[+-]?[0-9]+", value):
        return int(value)
    try:
        return parse_eps(value)
    except InputError:
        raise InputError(f"option '{text}': {value!r} is neither a number nor true or false") from None
