"""What is declared about a model, its outputs and its normalisation; wrappers that make it a classifier of pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from inoculate.core.errors import InputError
from inoculate.core.outputs import labels_in, logits_of
from inoculate.models.normalize import MeanStd, normalized


class AsLogits(nn.Module):
    """Logits, or labels, of a model whose outputs are declared as one of `CONVERSIONS`.

    Raises `InputError` where its outputs cannot be what they are declared as.
    """

    def __init__(self, model: nn.Module, outputs: str) -> None:
        super().__init__()
        self.model, self.outputs = model, outputs

    def forward(self, x: Tensor) -> Tensor:
        outputs = logits_of(self.model(x))
        outputs = torch.from_numpy(outputs) if isinstance(outputs, np.ndarray) else outputs
        if labels_in(outputs, len(x)) is not None and self.outputs != "labels":
            raise InputError(
                f"the model's outputs are declared as {self.outputs} and it gives labels only: "
                "leave the declaration out, or correct it (--outputs)"
            )
        return CONVERSIONS[self.outputs](outputs)


def from_probabilities(p: Tensor) -> Tensor:
    """The logarithm, so that softmax gives the probabilities back.

    B×K probabilities, or B×1 or B of the second of two classes. A zero counts as the smallest normal number.
    """
    _require_range(p, "probabilities", 0, 1)
    if p.ndim == 1 or p.shape[1] == 1:
        p = torch.stack([1 - p.flatten(), p.flatten()], dim=1)
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()


def from_log_probabilities(log_p: Tensor) -> Tensor:
    """B×K logarithms of probabilities are logits; −infinity counts as the logarithm of the smallest normal number."""
    _require_range(log_p, "log-probabilities", -torch.inf, 0)
    return log_p.clamp_min(torch.log(torch.tensor(torch.finfo(log_p.dtype).tiny)).item())


def from_sigmoid(p: Tensor) -> Tensor:
    """log p − log(1 − p) of B×K numbers, one sigmoid for each class: the input of the sigmoid."""
    _require_range(p, "sigmoid", 0, 1)
    tiny = torch.finfo(p.dtype).tiny
    return p.clamp_min(tiny).log() - (1 - p).clamp_min(tiny).log()


def from_single_logit(z: Tensor) -> Tensor:
    """(−z/2, z/2) of one number z per image (B×1 or B), large for the second class.

    The softmax is (sigmoid(−z), sigmoid(z)).
    """
    if z.ndim > 2 or (z.ndim == 2 and z.shape[1] != 1):
        raise InputError(
            f"the model's outputs are declared as a single logit and have the shape {tuple(z.shape)}: "
            "leave the declaration out, or correct it (--outputs)"
        )
    half = z.flatten() / 2
    return torch.stack([-half, half], dim=1)


def to_labels(outputs: Tensor) -> Tensor:
    """The labels (B, int64) in whole numbers or floats, B or B×1; of B×K floats the number of the largest."""
    if (labels := labels_in(outputs, len(outputs))) is not None:
        return labels
    if outputs.ndim == 2 and outputs.shape[1] > 1 and outputs.is_floating_point():
        return outputs.argmax(dim=1)
    found = outputs.flatten()
    if len(found) != len(outputs) or not found.is_floating_point() or not torch.equal(found, found.round()):
        raise InputError(
            "the model's outputs are declared as labels and are not: let it return one class number per image, or "
            "correct the declaration (--outputs)"
        )
    return found.long()


CONVERSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "probabilities": from_probabilities,
    "log-probabilities": from_log_probabilities,
    "sigmoid": from_sigmoid,
    "single-logit": from_single_logit,
    "labels": to_labels,
    "background-first": lambda z: z[:, 1:],
    "background-last": lambda z: z[:, :-1],
}
OUTPUTS = ("logits", *CONVERSIONS)


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
        model = model if self.outputs == "logits" else AsLogits(model, self.outputs)
        return model if self.normalize is None else normalized(model, *self.normalize)

    def unwrap(self, model: nn.Module) -> nn.Module:
        """The network inside what `wrap` returned."""
        network = model if self.normalize is None else model.get_submodule("network")
        return network if self.outputs == "logits" else network.get_submodule("model")


def _require_range(outputs: Tensor, declared: str, low: float, high: float) -> None:
    if outputs.numel() and (outputs.min() < low - 0.01 or outputs.max() > high + 0.01):
        raise InputError(
            f"the model's outputs are declared as {declared} and go from {float(outputs.min()):.3g} to "
            f"{float(outputs.max()):.3g}: leave the declaration out, or correct it (--outputs)"
        )
