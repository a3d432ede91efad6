"""Copies of modules."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def copy_module(module: Module) -> Module:
    """A deep copy, also of a module that keeps a tensor with a history, such as a weight norm after a training pass.

    Torch refuses to copy such a tensor; the copy gets its values. Raises whatever else in the module raises when it is
    copied: a lock, an open file, a session.
    """
    attributes = [value for each in module.modules() for value in vars(each).values()]
    with_history = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in with_history})
