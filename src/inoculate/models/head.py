"""The last layer of a classifier, and the features that it is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from inoculate.core.errors import InputError


def head_of(model: nn.Module) -> nn.Linear:
    """The linear layer that computes the logits: the last one of the model. Raises `InputError` for a model without."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise InputError("the network has no linear layer at its end: its features cannot be matched")
    return linear[-1]


def require_head(head: nn.Linear, features: Sequence[Tensor], logits: Tensor) -> None:
    """Raise `InputError` unless `head` computes the `logits` (B×K) of a pass from the `features` recorded in it."""
    if features:
        with torch.no_grad():
            found = head(features[-1]).float()
        if found.shape == logits.shape and torch.allclose(found, logits.detach().float(), rtol=0.05, atol=0.05):
            return
    raise InputError("the network's last linear layer does not compute its logits: its features cannot be matched")


@contextmanager
def recorded_features(head: nn.Linear) -> Iterator[list[Tensor]]:
    """Inside, every pass of the model appends the features (B×D) that its head is given."""
    features: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    try:
        yield features
    finally:
        hook.remove()
