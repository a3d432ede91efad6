"""Versions of the libraries that a number depends on."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("inoculate", "torch", "torchvision", "timm", "kornia", "datasets", "numpy", "safetensors", "pillow")


def versions() -> dict[str, str | None]:
    """The installed version of each library (None: not installed), and of Python."""
    return {name: _version(name) for name in LIBRARIES} | {"python": sys.version.split()[0]}


@lru_cache
def library_version(package: str) -> str:
    """The name of an imported package with its version, where that is known."""
    version = _version(package) or getattr(sys.modules.get(package), "__version__", "")
    return f"{package} {version}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
