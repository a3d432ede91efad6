"""What is declared about a model, its outputs and its normalisation; wrappers that make it a classifier of pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inoculate.core.errors import InputError
from inoculate.models.normalize import MeanStd, normalized


class FromProbabilities(nn.Module):
    """Logits of a model that returns probabilities: their logarithm, so that softmax gives them back.

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
    """Logits of a two-class model that returns a single number z per image, large for the second class: (−z/2, z/2).

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
    "probabilities": FromProbabilities,
    "single-logit": FromSingleLogit,
}
OUTPUTS = ("logits", *WRAPPERS)


@dataclass(frozen=True)
class Declared:
    """What is declared about a model: the kind of its outputs, one of `OUTPUTS`, and the (mean, std) it expects.

    Raises `InputError` for another kind.
    """

    outputs: str = "logits"
    normalize: MeanStd | None = None

    def __post_init__(self) -> None:
        if self.outputs not in OUTPUTS:
            raise InputError(f"outputs '{self.outputs}' are unknown: use one of {', '.join(OUTPUTS)}")

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model` behind its normalisation, with its outputs converted to logits."""
        model = model if self.outputs == "logits" else WRAPPERS[self.outputs](model)
        return model if self.normalize is None else normalized(model, *self.normalize)

    def unwrap(self, model: nn.Module) -> nn.Module:
        """The network inside what `wrap` returned."""
        network = model if self.normalize is None else model.get_submodule("network")
        return network if self.outputs == "logits" else network.get_submodule("model")
