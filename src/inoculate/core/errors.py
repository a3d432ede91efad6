"""The one exception for what a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class InputError(ValueError):
    """The user's input is wrong: a single line that says what, where and how to mend it.

    The command line prints the line and exits with code 2; in Python it is an ordinary `ValueError`.
    """


def gist(error: BaseException) -> str:
    """The line of an error that tells most, to be put into an `InputError`: the first, of TorchScript's the last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if "TorchScript" in lines[0] else 0][:160]


def suggest(name: str, valid: Sequence[str]) -> str:
    """How to mend a wrong name, to be put into an `InputError`: the nearest valid one, else all of them."""
    near = difflib.get_close_matches(name, valid, n=1)
    return f"did you mean '{near[0]}'?" if near else f"use one of {', '.join(valid)}"
