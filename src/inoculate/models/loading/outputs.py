"""Declared outputs: models whose outputs are not logits, turned into classifiers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.core.errors import InputError
from inoculate.models.normalize import MeanStd


class FromProbabilities(nn.Module):
    """Logits of a model that gives probabilities: their logarithm, so that softmax gives them back.

    B×K probabilities, or B×1 or B of the second of two classes. A zero counts as the smallest normal number. Raises
    `InputError` for outputs outside [0, 1].
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        p: Tensor = self.model(x)
        if p.numel() and (p.min() < -0.01 or p.max() > 1.01):
            raise InputError(
                f"the model's outputs are declared as probabilities and go from {float(p.min()):.3g} to "
                f"{float(p.max()):.3g}: leave the declaration out, or correct it (--outputs)"
            )
        if p.ndim == 1 or p.shape[1] == 1:
            p = torch.stack([1 - p.flatten(), p.flatten()], dim=1)
        return p.clamp_min(torch.finfo(p.dtype).tiny).log()


class FromSingleLogit(nn.Module):
    """Logits of a two-class model that gives a single number z per image, large for the second class: (−z/2, z/2).

    B×1 or B → B×2, with the softmax (sigmoid(−z), sigmoid(z)). Raises `InputError` for outputs of another shape.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.model(x)
        if z.ndim > 2 or (z.ndim == 2 and z.shape[1] != 1):
            raise InputError(
                f"the model's outputs are declared as a single logit and have the shape {tuple(z.shape)}: "
                "leave the declaration out, or correct it (--outputs)"
            )
        half = z.flatten() / 2
        return torch.stack([-half, half], dim=1)


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "logits": lambda model: model,
    "probabilities": FromProbabilities,
    "single-logit": FromSingleLogit,
}


def unwrapped(model: nn.Module, outputs: str, normalize: MeanStd | None) -> nn.Module:
    """The network that `resolve_model` put a normalisation in front of, and a wrapper around, as declared."""
    network: Any = model if normalize is None else model.network
    found: nn.Module = network if outputs == "logits" else network.model
    return found


def wrapper_named(name: str) -> Callable[[nn.Module], nn.Module]:
    """The wrapper for outputs of this kind; raises `InputError` naming the known ones."""
    if name not in WRAPPERS:
        raise InputError(f"outputs '{name}' are unknown: use one of {', '.join(WRAPPERS)}")
    return WRAPPERS[name]
