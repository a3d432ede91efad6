"""Images as numbers: from 8 bits to floats in [0, 1] and back."""

from __future__ import annotations

import torch
from torch import Tensor

from inoculate.core.threat import Threat, distance, per_sample


def to_float(images: Tensor) -> Tensor:
    """uint8 pixels as floats in [0, 1], the same on every device: a GPU divides by a number as if it multiplied."""
    return images.to(torch.float32) / torch.full((), 255.0, device=images.device)


def eight_bits(x_adv: Tensor, original: Tensor, threat: Threat) -> Tensor:
    """`x_adv` (float) as uint8 inside the ball around `original` (uint8): the nearest pixels, or rounded towards it."""
    near = (x_adv * 255).round().clamp(0, 255)
    inward = torch.where(x_adv * 255 > original, (x_adv * 255 + 1e-4).floor(), (x_adv * 255 - 1e-4).ceil())
    inside = distance(near / 255, to_float(original), threat.norm) <= threat.eps + 1e-7
    chosen = torch.where(per_sample(inside, near), near, inward.clamp(0, 255))
    return chosen.to(torch.uint8)
