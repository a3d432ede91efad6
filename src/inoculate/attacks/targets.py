"""Target classes: the rules by which an attack chooses them, and their order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inoculate.attacks.losses import LossLike, Objective, get_loss, logits_fp32
from inoculate.core.errors import InputError
from inoculate.core.rng import Draws
from inoculate.core.threat import Threat

Target = str | int | Tensor | None
"""`None` (untargeted), `"least_likely"` (the lowest logit), `"second"` (the wrong class of the highest logit),
`"random"` (any wrong class), a class index, or a class index per image (B, int64)."""

RULES = ("least_likely", "second", "random")


def check_target(target: object) -> None:
    """Raise `InputError` unless `target` is a rule or class indices; whether the model has the class shows later."""
    if isinstance(target, Tensor):
        known = target.dtype is torch.int64 and target.ndim == 1
    else:
        known = target is None or isinstance(target, int) or target in RULES
    if not known:
        raise InputError(f"target {target!r} is unknown: use {', '.join(RULES)} or a class number")


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
    return choose_targets(logits, x, y, target, generator)


def build_objective(
    loss: LossLike,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    target: Target,
    generator: torch.Generator | None,
) -> Objective:
    """What an attack raises on images `x` of classes `y`, away from these or towards its target, inside the mask."""
    towards = resolve_targets(model, x, y, target, generator)
    return Objective(get_loss(loss), y, towards, threat.changeable(x))


def choose_targets(
    logits: Tensor, x: Tensor, y: Tensor, target: str | int | Tensor, generator: torch.Generator | None
) -> Tensor:
    """The target class (B) of images `x` of classes `y` whose logits are known; raises `InputError` for none."""
    classes = logits.shape[1]
    if isinstance(target, Tensor):
        if target.shape != y.shape or not bool(((target >= 0) & (target < classes)).all()):
            raise InputError(
                f"target holds {len(target)} classes for {len(y)} images: give each one from 0 to {classes - 1}"
            )
        return target.to(y.device)
    if target == "least_likely":
        least: Tensor = logits.argmin(dim=1)
        return least
    if target == "second":
        return wrong_classes(logits, y)[:, 0]
    if target == "random":
        others: Tensor = (y + 1 + Draws(x, generator).integers(classes - 1)) % classes
        return others
    if isinstance(target, int) and 0 <= target < classes:
        return torch.full_like(y, target)
    raise InputError(f"target '{target}' is unknown: use {', '.join(RULES)} or a class from 0 to {classes - 1}")


def wrong_classes(logits: Tensor, y: Tensor) -> Tensor:
    """The wrong classes of each image, the most likely first: B×(K−1)."""
    order: Tensor = logits.scatter(1, y[:, None], torch.inf).argsort(dim=1, descending=True, stable=True)[:, 1:]
    return order
