"""Channels-last where torch would lose it: in grey images, and in the gradient behind a flattened map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inoculate.models.acceleration.torch_state import is_traced


def in_memory_format(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Images (B×C×H×W) in this format.

    With one channel they have both formats at once. By their strides a convolution decides about its output's format,
    so these get the strides of the one that is wanted.
    """
    x = x.contiguous(memory_format=memory_format)
    if memory_format is torch.channels_last and x.shape[1] == 1:
        return x.reshape(len(x), *x.shape[2:], 1).permute(0, 3, 1, 2)
    return x


class FormatKeepingFlatten(nn.Flatten):
    """`nn.Flatten` whose gradient comes in the format of the maps: the layers before it are slow on a mixture."""

    def forward(self, x: Tensor) -> Tensor:
        is_map = x.ndim == 4 and x.grad_fn is not None and not is_traced()
        if is_map and x.is_contiguous(memory_format=torch.channels_last):
            x.register_hook(_channels_last)  # type: ignore[no-untyped-call]
        return super().forward(x)


def keep_formats(model: nn.Module) -> nn.Module:
    """Make every plain `nn.Flatten` of `model` a `FormatKeepingFlatten`."""
    for module in model.modules():
        if type(module) is nn.Flatten:
            module.__class__ = FormatKeepingFlatten
    return model


def _channels_last(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)
