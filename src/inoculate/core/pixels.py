"""Conversion of images from 8 bits to floats in [0, 1] and back."""

from __future__ import annotations

import torch
from torch import Tensor

from inoculate.core.threat import Threat, distance, per_sample


def to_float(images: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1], bit-identical on every device.

    The divisor is a tensor, because a GPU replaces the division by a Python number with a multiplication.
    """
    return images.to(torch.float32) / torch.full((), 255.0, device=images.device)


def eight_bits(x_adv: Tensor, original: Tensor, threat: Threat) -> Tensor:
    """`x_adv` (float in [0, 1]) as uint8 within the threat's eps of `original` (uint8); both B×C×H×W.

    Pixels are rounded to the nearest value; an image that this moves out of the ball is rounded towards `original`.
    """
    nearest = (x_adv * 255).round().clamp(0, 255)
    inward = torch.where(x_adv * 255 > original, (x_adv * 255 + 1e-4).floor(), (x_adv * 255 - 1e-4).ceil())
    inside = distance(to_float(nearest), to_float(original), threat.norm) <= threat.eps + 1e-7
    chosen = torch.where(per_sample(inside, nearest), nearest, inward.clamp(0, 255))
    return chosen.to(torch.uint8)
