"""Adversarial weight perturbation: train at the worst weights nearby (Wu et al. 2020, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def worst_weights(model: nn.Module, loss: Callable[[], Tensor], gamma: float) -> Iterator[None]:
    """Inside, each weight w of `model` is moved by `gamma`·‖w‖ along its gradient of `loss()`; put back exactly after.

    Weights are the parameters of two dimensions and more: biases and BatchNorm stay. The pass that finds the direction
    leaves BatchNorm's statistics alone. With `gamma` 0 nothing is done.
    """
    if not gamma:
        yield
        return
    weights: list[Tensor] = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    state = list(model.buffers())
    before = [buffer.clone() for buffer in state]
    found = zip(weights, torch.autograd.grad(loss(), weights, allow_unused=True), strict=True)
    used = [(w, gradient) for w, gradient in found if gradient is not None]  # a network may have unused weights
    weights, gradients = [w for w, _ in used], [gradient for _, gradient in used]
    kept = [w.detach().clone() for w in weights]
    with torch.no_grad():
        _copy(state, before)
        sizes, slopes = torch._foreach_norm(weights), torch._foreach_norm(gradients)
        for w, gradient, size, slope in zip(weights, gradients, sizes, slopes, strict=True):
            w.add_(gradient * (gamma * size / slope.clamp_min(1e-12)))
    try:
        yield
    finally:
        with torch.no_grad():
            _copy(weights, kept)


def _copy(into: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into tensors, those of one dtype by a single kernel."""
    for dtype in {tensor.dtype for tensor in into}:
        pairs = [pair for pair in zip(into, values, strict=True) if pair[0].dtype is dtype]
        torch._foreach_copy_([old for old, _ in pairs], [new for _, new in pairs])
