"""Functions of the user's own: `package.module:function` or `file.py:function`, and networks that they return."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from inoculate.core.errors import InputError


def call_factory(spec: str) -> nn.Module:
    """The network that the function named by `spec` returns; it is called without arguments.

    Raises `InputError` if it cannot be imported or called, or returns something else.
    """
    factory, name = import_function(spec, "model"), spec.rpartition(":")[2]
    try:
        model = factory()
    except (Exception, SystemExit) as error:
        raise InputError(f"model '{spec}': {name}() failed ({type(error).__name__}: {error}): "
                         "it must work without arguments") from error  # fmt: skip
    if not isinstance(model, nn.Module):
        raise InputError(f"model '{spec}': {name}() returned {type(model).__name__}: it must return a torch.nn.Module")
    return model


def import_function(spec: str, what: str) -> Callable[..., Any]:
    """The function named by `spec`; errors call it `what`. Raises `InputError` if it cannot be imported."""
    place, _, name = spec.rpartition(":")
    _allow_imports_from(Path(place).parent if place.endswith(".py") else Path())
    try:
        module = _import_file(Path(place), what) if place.endswith(".py") else importlib.import_module(place)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{what} '{spec}': {place} cannot be imported ({type(error).__name__}: {error})") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{what} '{spec}': {place} has no function '{name}': check the name behind the colon")
    found: Callable[..., Any] = function
    return found


def source_file(spec: str) -> Path | None:
    """The Python file that defines the factory named by `spec`; None for a module that was not imported."""
    place = spec.rpartition(":")[0]
    if place.endswith(".py"):
        return Path(place)
    file = vars(sys.modules[place]).get("__file__") if place in sys.modules else None
    return None if file is None else Path(file)


def _allow_imports_from(folder: Path) -> None:
    """Make the modules in `folder` importable, as when Python is started there; installed packages come first."""
    if (here := str(folder.resolve())) not in sys.path:
        sys.path.append(here)


def _import_file(path: Path, what: str) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{what} file {path} is not there: check the path")
    found = importlib.util.spec_from_file_location(path.stem, path)
    if found is None or found.loader is None:
        raise InputError(f"{what} file {path} is not a Python file: give file.py:function")
    module = importlib.util.module_from_spec(found)
    sys.modules[path.stem] = module
    found.loader.exec_module(module)
    return module
