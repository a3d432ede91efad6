"""Calls of a model that change none of its inputs and return logits, whatever its `forward` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Behaviour:
    """What a model did at its first pass: whether it edited its input in place, and the type that it returned."""

    edits_input: bool
    returns: type

    @property
    def is_plain(self) -> bool:
        """Whether the model can be called as it is: it leaves its input alone and returns a tensor."""
        return not self.edits_input and issubclass(self.returns, Tensor)


_OBSERVED: WeakKeyDictionary[nn.Module, Behaviour] = WeakKeyDictionary()  # one entry for each model that still lives


def behaviour(model: nn.Module) -> Behaviour:
    """What `model` did at its first pass inside `pure_calls`; plain if there was none."""
    return _OBSERVED.get(model, Behaviour(False, Tensor))


@runtime_checkable
class _HasLogits(Protocol):
    logits: Tensor


def logits_of(output: Any) -> Any:
    """The logits in what a model returned: a tensor itself, the entry or attribute `logits`, or the first of a tuple.

    Anything else is returned as it is.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        return output.get("logits", output)
    if isinstance(output, _HasLogits):
        return output.logits
    return output[0] if isinstance(output, tuple | list) and output else output


def takes_hooks(model: nn.Module) -> bool:
    """Whether hooks can be put on `model`: not on a function, on TorchScript, or on what was compiled in place."""
    is_module = isinstance(model, nn.Module) and not isinstance(model, torch.jit.ScriptModule)
    return is_module and model._compiled_call_impl is None


@contextmanager
def pure_calls(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, a model that edits its input gets a copy of it, and of what a model returns the logits come back.

    The model is observed at its first pass, which gets a copy of its input. One that is plain is called directly from
    then on. TorchScript, which takes no hooks, and a model that was compiled in place, which they would have compiled
    again, are called directly.
    """
    known = _OBSERVED.get(model)
    if not takes_hooks(model) or (known is not None and known.is_plain):
        yield model
        return
    observer = _Observer()
    hooks = [model.register_forward_pre_hook(observer.before), model.register_forward_hook(observer.after)]
    try:
        yield model
    finally:
        for hook in hooks:
            hook.remove()


class _Observer:
    """Hooks around one model: they copy its input, note what it does at its first pass, and take out the logits."""

    def __init__(self) -> None:
        self.original: Tensor | None = None
        self.version = 0

    def before(self, model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        known = _OBSERVED.get(model)
        if known is not None and not known.edits_input:
            return None
        x, *others = inputs
        copy = x.clone()
        self.original, self.version = x, copy._version
        return (copy, *others)

    def after(self, model: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if model not in _OBSERVED and self.original is not None:
            copy = inputs[0]
            edited = copy._version != self.version or not torch.equal(copy.detach(), self.original.detach())
            _OBSERVED[model] = Behaviour(edited, type(output))
        self.original = None
        return logits_of(output)
