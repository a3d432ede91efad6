"""Training methods. A `Method` is one update; the loop around it (`fit`) is the same for all."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Method(Protocol):
    """One update of `model` on float images `x` (B×C×H×W in [0, 1]) and labels `y` (B); returns metrics to log.

    The metrics are means over the batch and hold at least `loss` and `accuracy` (in [0, 1]); an adversarial method
    reports those of the adversarial images. `progress` is the fraction of the training that is done, from 0 to 1.
    `samples` (B, int64, on the CPU) are the numbers of the images in the training set, for a method that remembers
    something of each. A method that carries state from one update to the next is also `Stateful`.
    """

    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator,
        progress: float = 1.0,
        samples: Tensor | None = None,
    ) -> dict[str, float]: ...


@runtime_checkable
class Stateful(Protocol):
    """Has state that belongs into a checkpoint."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


def standard(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator,
    progress: float = 1.0,
    samples: Tensor | None = None,
) -> dict[str, float]:
    """Minimise cross-entropy on the clean batch. It is a `Method`."""
    logits = model(x)
    loss = F.cross_entropy(logits.float(), y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return batch_metrics(loss, logits, y)


def batch_metrics(loss: Tensor, logits: Tensor, y: Tensor) -> dict[str, float]:
    """The metrics of an update: its loss, and the accuracy of the logits (B×K)."""
    right = (logits.argmax(dim=1) == y).float().mean()
    numbers = torch.stack([loss.detach().float(), right]).tolist()  # in one transfer: a GPU is synchronised only here
    return dict(zip(("loss", "accuracy"), numbers, strict=True))
