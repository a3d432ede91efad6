"""File names made from the names of models, datasets and arms."""

from __future__ import annotations

import re

from inoculate.artifacts.specs import fingerprint

_LONGEST = 120  # characters; file systems allow 255 bytes


def file_name(*parts: str) -> str:
    """A file name made from `parts`; a long one ends in a fingerprint of the whole."""
    name = re.sub(r"[^\w.-]+", "_", "-".join(parts)).strip("._") or "figure"
    return name if len(name) <= _LONGEST else f"{name[:99]}-{fingerprint({'name': name})}"
