"""Adversarial weight perturbation: train at the worst weights nearby (Wu et al. 2020, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    gradients = torch.autograd.grad(loss(), weights)
    kept = [w.detach().clone() for w in weights]
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
        for w, gradient in zip(weights, gradients, strict=True):
            w.add_(gradient, alpha=float(gamma * w.norm() / gradient.norm().clamp_min(1e-12)))
    try:
        yield
    finally:
        with torch.no_grad():
            for w, before in zip(weights, kept, strict=True):
                w.copy_(before)
