"""The exception for wrong input, and helpers for its one-line messages."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class InputError(ValueError):
    """The user's input is wrong: one line that says what is wrong, where, and what to do.

    The command line prints the line and exits with code 2; in Python it is a `ValueError`.
    """


def one_line(error: BaseException) -> str:
    """The most informative line of an error, for use in an `InputError`: the first; of TorchScript's the last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if "TorchScript" in lines[0] else 0][:160]


def suggest(name: str, valid: Sequence[str]) -> str:
    """Advice on a wrong name, to be put into an `InputError`: the nearest valid name, else all of them."""
    near = difflib.get_close_matches(name, valid, n=1)
    return f"did you mean '{near[0]}'?" if near else f"use one of {', '.join(valid)}"
