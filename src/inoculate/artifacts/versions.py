"""Versions of the libraries that a number depends on."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("inoculate", "torch", "torchvision", "timm", "kornia", "datasets", "numpy", "safetensors", "pillow")


def versions() -> dict[str, str | None]:
    """The installed version of each library (None: not installed), and of Python."""
    return {name: _version(name) for name in LIBRARIES} | {"python": sys.version.split()[0]}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
