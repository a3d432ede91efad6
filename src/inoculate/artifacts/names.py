"""File names made from the names of what is in the files."""

from __future__ import annotations

import re

from inoculate.artifacts.specs import fingerprint


def file_name(*parts: str) -> str:
    """A file name from names; a long one ends with a fingerprint, because file systems take 255 bytes."""
    name = re.sub(r"[^\w.-]+", "_", "-".join(parts)).strip("._") or "figure"
    return name if len(name) <= 120 else f"{name[:99]}-{fingerprint({'name': name})}"
