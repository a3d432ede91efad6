"""The last layer of a classifier, and the features that it is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from inoculate.core.errors import InputError


def head_of(model: nn.Module) -> nn.Linear:
    """The linear layer that computes the logits: the last one of the model. Raises `InputError` for a model without."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise InputError("the network has no linear layer at its end: its features cannot be matched")
    return linear[-1]


@contextmanager
def recorded_features(head: nn.Linear) -> Iterator[list[Tensor]]:
    """Inside, every pass of the model appends the features (B×D) that its head is given."""
    features: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    try:
        yield features
    finally:
        hook.remove()
