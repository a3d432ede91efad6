"""The observer that long-running functions report to."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # (what is being done, steps done, steps in all)
