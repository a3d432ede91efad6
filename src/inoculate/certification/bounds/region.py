"""The images that a bound must hold for: a ball in some norm, within the valid range, around each image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from inoculate.core.errors import InputError
from inoculate.core.threat import Threat

BISECTIONS = 60
NORMS = ("linf", "l2", "l1")


@dataclass(frozen=True, eq=False)
class Region:
    """All `x + δ` with `below ≤ δ ≤ above` (all B×C×H×W) and a norm of δ of at most `eps`.

    dual: the exponent of the dual norm; None in L∞, where the box says everything.
    """

    x: Tensor
    below: Tensor
    above: Tensor
    eps: float
    dual: float | None

    @classmethod
    def of(cls, x: Tensor, threat: Threat) -> Region:
        """The region of a threat around images (B×C×H×W), with the masks of these.

        Raises `InputError` for L0, for images outside of the valid range, and for a mask that does not fit them.
        """
        require_bounded_norm(threat)
        if bool((x < threat.low).any()) or bool((x > threat.high).any()):
            raise InputError(f"an image has pixels outside the valid range [{threat.low:g}, {threat.high:g}]: widen it")
        above, below = (threat.high - x).clamp_max(threat.eps), (threat.low - x).clamp_min(-threat.eps)
        changeable = threat.changeable(x)
        if changeable is not None:
            above, below = above * changeable, below * changeable
        return cls(x, below, above, threat.eps, {"linf": None, "l2": 2.0, "l1": math.inf}[threat.norm])

    def least(self, weight: Tensor, *, exact: bool = True) -> Tensor:
        """The smallest `weight · δ` (B×S) for linear functions `weight` (B×S×C×H×W).

        Not `exact`, L2 and L1 take the larger of two lower bounds, that of the ball and that of the box.
        """
        below, above = self.below.flatten(1)[:, None], self.above.flatten(1)[:, None]
        weight = weight.flatten(2) * (above > below)
        box = torch.minimum(weight * below, weight * above).sum(dim=2)
        if self.dual is None:
            return box
        ball = -self.eps * weight.norm(p=self.dual, dim=2)
        if not exact or not self.eps:
            return torch.maximum(box, ball)
        if self.dual == math.inf:
            return _least_in_l1(weight, below, above, self.eps)
        least = _least_in_l2(weight, below, above, self.eps)
        return torch.maximum(torch.maximum(box, ball), least)


def require_bounded_norm(threat: Threat) -> None:
    """Raise `InputError` for a threat in L0."""
    if threat.norm not in NORMS:
        raise InputError(f"bounds are for {', '.join(NORMS)}, not {threat.norm}: choose one of them")


def _least_in_l2(weight: Tensor, below: Tensor, above: Tensor, eps: float) -> Tensor:
    """The dual function of min `weight · δ` within box and L2 ball at the best multiplier 1/λ; a bound at any other.

    The minimiser is −λ · `weight` cut off at the box, with the λ at which its norm is eps.
    """
    first = eps / weight.norm(dim=2, keepdim=True).clamp_min(1e-30)
    down, up = first, first * 2.0**20
    for _ in range(BISECTIONS):
        middle = (down * up).sqrt()
        short = (-middle * weight).clamp(below, above).norm(dim=2, keepdim=True) < eps
        down, up = torch.where(short, middle, down), torch.where(short, up, middle)
    delta = (-down * weight).clamp(below, above)
    least: Tensor = (weight * delta + delta**2 / (2 * down)).sum(dim=2) - (eps**2 / (2 * down)).squeeze(2)
    return least


def _least_in_l1(weight: Tensor, below: Tensor, above: Tensor, eps: float) -> Tensor:
    """The steepest entries move to the wall of the box, one after the other, until eps is used up."""
    gain, order = weight.abs().sort(dim=2, descending=True)
    room = torch.where(weight > 0, -below, above).gather(2, order)
    left = (eps - (room.cumsum(dim=2) - room)).clamp_min(0)
    return -(gain * torch.minimum(room, left)).sum(dim=2)
