"""Training updates. A `Method` is one of them; the loop around it (`fit`) is the same for all."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Method(Protocol):
    """One update of `model` on float images `x` (B×C×H×W in [0, 1]) and labels `y` (B); returns what to log.

    The returned numbers are means over the batch and hold at least `loss` and `accuracy` (in [0, 1]), for an
    adversarial method on the adversarial images. `share` is how much of the training is done, in [0, 1]. A method that
    keeps something from one update to the next has `state_dict` and `load_state_dict`.
    """

    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator,
        share: float = 1.0,
    ) -> dict[str, float]: ...


def standard(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator,
    share: float = 1.0,
) -> dict[str, float]:
    """Minimise cross-entropy on the batch as it is."""
    logits = model(x)
    loss = F.cross_entropy(logits.float(), y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return report(loss, logits, y)


def report(loss: Tensor, logits: Tensor, y: Tensor) -> dict[str, float]:
    """What every update logs: the loss, and the accuracy of these logits (B×K)."""
    right = (logits.argmax(dim=1) == y).float().mean()
    numbers = torch.stack([loss.detach().float(), right]).tolist()  # at once: a GPU is waited for only here
    return dict(zip(("loss", "accuracy"), numbers, strict=True))
