"""Optional dependencies: whether one is installed, and the one-line error where it is missing."""

from __future__ import annotations

from importlib.util import find_spec

from inoculate.core.errors import InputError


def is_installed(package: str) -> bool:
    """Whether a top-level package can be imported; it is not imported."""
    return find_spec(package) is not None


def require(package: str, extra: str, purpose: str) -> None:
    """Raise `InputError` unless the top-level `package` is installed; call it before any work that needs the package.

    extra: the extra of this distribution that installs it. purpose: what needs it, such as "writing ONNX files".
    """
    if not is_installed(package):
        raise InputError(f"{purpose} needs the package {package}: pip install 'inoculate[{extra}]'")
