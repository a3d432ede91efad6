"""The geometry of L0, which counts pixels: those positions of an image at which any channel changes.

Images are B×C×H×W. The functions are those of the same names in `threat`, which chooses by the norm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from inoculate.core.rng import Draws
    from inoculate.core.threat import Threat


def distance(x_adv: Tensor, x: Tensor) -> Tensor:
    """How many pixels differ, per sample (B)."""
    import torch

    return (x_adv != x).any(dim=1).flatten(1).sum(dim=1).to(x if x.dtype.itemsize > 2 else torch.float32)


def project(x_adv: Tensor, x: Tensor, threat: Threat, count: float | Tensor) -> Tensor:
    """The nearest image in the range with at most `count` (one for all, or B) changed pixels.

    What differs by rounding alone is put back.
    """
    import torch

    clamped = x_adv.clamp(threat.low, threat.high)
    cost = ((x_adv - x) ** 2 - (x_adv - clamped) ** 2).sum(dim=1, keepdim=True)  # of putting a pixel back
    rounding = 4 * torch.finfo(x.dtype).eps * (threat.high - threat.low)
    moved = ((x_adv - x).abs() > rounding).any(dim=1, keepdim=True)
    return torch.where(moved & _largest(cost, count), clamped, x)


def step_along(x_adv: Tensor, x: Tensor, way: Tensor, count: int, threat: Threat) -> Tensor:
    """The step from `x_adv` that raises a linear function with gradient `way` most by moving `count` pixels.

    A pixel moves to the corner of the range that `way` points to. The ball has space for eps changed pixels, counted
    from `x`: those are kept that raise the function most, the others put back.
    """
    import torch

    corner = torch.where(way == 0, x_adv, torch.where(way > 0, threat.high, threat.low).to(x))
    present, best = ((way * (each - x)).sum(dim=1, keepdim=True) for each in (x_adv, corner))
    changed = (x_adv != x).any(dim=1, keepdim=True)
    worst = present.masked_fill(~changed, torch.inf).amin(dim=(2, 3), keepdim=True)
    has_space = changed.sum(dim=(2, 3), keepdim=True) < threat.eps
    rise = best - torch.where(changed, present, torch.where(has_space, 0, worst))
    chosen = _largest(rise, count) & (rise > 0)
    gain = torch.where(chosen, best, present).masked_fill(~(changed | chosen), -torch.inf)
    kept = (changed | chosen) & _largest(gain, threat.eps)
    return torch.where(kept, torch.where(chosen, corner, x_adv), x) - x_adv


def pixels_to_rise(rise: Tensor, gradient: Tensor) -> Tensor:
    """The fewest pixels, each value of which moves by 1 at most, that raise a linear function by `rise` (B).

    Infinity where all of them are not enough, negative for a negative rise.
    """
    import torch

    gains = pixel_sums(gradient.abs()).sort(dim=1, descending=True).values.cumsum(dim=1)
    short = (gains < rise.abs()[:, None]).sum(dim=1)
    pixels = torch.where(short < gains.shape[1], short + 1, torch.inf).to(rise)
    return torch.where(rise == 0, 0, rise.sign() * pixels)


def sample(x: Tensor, threat: Threat, draws: Draws) -> Tensor:
    """Random pixels, as many as eps allows, with uniform values of the range; of those that may change first."""
    import torch

    places, values = draws.uniform(1, *x.shape[2:]), draws.uniform(*x.shape[1:]).to(x.dtype)
    if (changeable := threat.changeable(x)) is not None:
        places = places + changeable.any(dim=1, keepdim=True)
    return torch.where(_largest(places, threat.eps), threat.low + (threat.high - threat.low) * values, x)


def pixel_sums(values: Tensor) -> Tensor:
    """Sums over the channels (B×C×H×W to B×H·W)."""
    return values.sum(dim=1).flatten(1)


def _largest(values: Tensor, count: float | Tensor) -> Tensor:
    """Which pixels (like `values`, B×1×H×W, bool) hold the `count` largest values of their image.

    Of equal values the first in reading order counts.
    """
    import torch

    flat = values.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, places)
    return (ranks < (count if isinstance(count, float | int) else count[:, None])).view_as(values)
