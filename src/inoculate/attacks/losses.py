"""What an attack raises: per-sample losses of logits (B×K) and labels (B), and their input gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.errors import InputError

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """−log softmax of class `y`, per sample (B). In fp32 its gradient vanishes on very confident samples."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best wrong logit minus the logit of `y`, per sample (B): positive where misclassified, and never saturates."""
    wrong = logits.scatter(1, y[:, None], -torch.inf)
    return wrong.amax(dim=1) - logits.gather(1, y[:, None]).squeeze(1)


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin}


def loss_named(name: str) -> Loss:
    """The loss of this name; raises `InputError` naming the known ones."""
    if name not in LOSSES:
        raise InputError(f"loss '{name}' is unknown: use one of {', '.join(LOSSES)}")
    return LOSSES[name]


def input_gradient(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """Gradient of the summed per-sample loss with respect to the images alone, in the images' dtype; B×C×H×W."""
    x = x.detach().requires_grad_()
    total = loss(model(x).float(), y).sum()
    if not total.requires_grad:
        raise InputError(
            "no gradient reaches the images: the model is not differentiable, gradient attacks cannot be used"
        )
    (gradient,) = torch.autograd.grad(total, x)
    return gradient
