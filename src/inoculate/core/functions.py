"""The modules that a plain function from images to logits runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

DEPTH = 3  # functions called by functions


def modules_behind(function: Any) -> list[nn.Module]:
    """The modules that a function, a method, a `functools.partial` or a callable object refers to, each once.

    What a function refers to are its closure, and the globals that its code names; what an object, its attributes.
    """
    return list(dict.fromkeys(_modules(function, DEPTH)))


def _modules(value: Any, depth: int) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
    elif depth:
        for each in _referred_to(value):
            yield from _modules(each, depth - 1)


def _referred_to(value: Any) -> list[Any]:
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if inspect.ismethod(value):
        return [value.__self__, value.__func__]
    if inspect.isfunction(value):
        try:
            names = inspect.getclosurevars(value)
        except ValueError:  # a cell that is still empty
            return []
        return [*names.nonlocals.values(), *names.globals.values()]
    if inspect.isclass(value) or inspect.ismodule(value) or inspect.isbuiltin(value):
        return []
    if isinstance(value, list | tuple):
        return list(value)
    return list(vars(value).values()) if callable(value) and hasattr(value, "__dict__") else []
