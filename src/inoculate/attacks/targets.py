"""Target classes: the rules by which an attack chooses them, and their order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inoculate.attacks.losses import logits_fp32
from inoculate.core.errors import InputError
from inoculate.core.rng import Draws

Target = str | int | None
"""`None` (untargeted), `"least_likely"` (the lowest logit), `"random"` (any wrong class) or a class index."""


def check_target(target: object) -> None:
    """Raise `InputError` unless `target` is a rule or a class index; whether the model has the class shows later."""
    if not (target is None or isinstance(target, int) or target in ("least_likely", "random")):
        raise InputError(f"target {target!r} is unknown: use least_likely, random or a class number")


def resolve_targets(
    model: nn.Module, x: Tensor, y: Tensor, target: Target, generator: torch.Generator | None
) -> Tensor | None:
    """The target class of each clean image (B, int64), or None if untargeted.

    Raises `InputError` for a class that the model does not have.
    """
    if target is None:
        return None
    with torch.no_grad():
        logits = logits_fp32(model, x)
    classes = logits.shape[1]
    if target == "least_likely":
        least: Tensor = logits.argmin(dim=1)
        return least
    if target == "random":
        others: Tensor = (y + 1 + Draws(x, generator).integers(classes - 1)) % classes
        return others
    if isinstance(target, int) and 0 <= target < classes:
        return torch.full_like(y, target)
    raise InputError(f"target '{target}' is unknown: use least_likely, random or a class from 0 to {classes - 1}")


def wrong_classes(logits: Tensor, y: Tensor) -> Tensor:
    """The wrong classes of each image, the most likely first: B×(K−1)."""
    order: Tensor = logits.scatter(1, y[:, None], torch.inf).argsort(dim=1, descending=True, stable=True)[:, 1:]
    return order
