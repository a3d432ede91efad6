"""A deadline for calls of a model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class OutOfTimeError(Exception):
    """A model was called after its deadline."""


@contextmanager
def with_deadline(model: nn.Module, deadline: float | None) -> Iterator[nn.Module]:
    """Inside, `model` raises `OutOfTimeError` when called after `deadline` (on `time.monotonic`); None: never.

    TorchScript takes no hooks and has no deadline, unless a module holds it (see `ScriptedModel`).
    """

    def check(*_: object) -> None:
        if deadline is not None and time.monotonic() > deadline:
            raise OutOfTimeError

    takes_hooks = not isinstance(model, torch.jit.ScriptModule)
    hook = model.register_forward_pre_hook(check) if deadline is not None and takes_hooks else None
    try:
        yield model
    finally:
        if hook is not None:
            hook.remove()
