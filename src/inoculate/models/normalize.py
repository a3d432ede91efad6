"""Normalisation as a classifier's first layer, so that attacks and eps stay in pixel units."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from inoculate.core.errors import InputError

MeanStd = tuple[tuple[float, ...], tuple[float, ...]]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALIZATIONS: dict[str, MeanStd] = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "mnist": ((0.1307,), (0.3081,)),
    "0-255": ((0.0,), (1 / 255,)),  # for a model that takes pixels from 0 to 255
}


class Normalize(nn.Module):
    """`(x − mean) / std` per channel for B×C×H×W images in [0, 1]; `mean`, `std` have an entry per channel, or one."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        # The images decide the device: a network behind this layer may have no parameters that would.
        return (x - self.mean.to(x.device)) / self.std.to(x.device)


def normalized(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Sequential:
    """`network` behind its normalisation: a classifier of plain pixels."""
    return nn.Sequential(OrderedDict(normalize=Normalize(mean, std), network=network))


def set_normalization(model: nn.Module, normalize: MeanStd) -> None:
    """Replace the (mean, std) of the first layer of what `normalized` returned."""
    layer = model.get_submodule("normalize")
    if not isinstance(layer, Normalize):
        raise TypeError(f"the first layer is {type(layer).__name__}, not a normalisation")
    layer.mean, layer.std = Normalize(*normalize).to(layer.mean.device).buffers()


def same_normalization(one: MeanStd, other: MeanStd) -> bool:
    """Whether two normalisations agree to three digits; one number serves all channels."""
    for a, b in zip(one, other, strict=True):
        difference = (torch.tensor(a) - torch.tensor(b)).abs() if 1 in (len(a), len(b)) or len(a) == len(b) else None
        if difference is None or bool((difference > 1e-3 + 0.01 * torch.tensor(b).abs()).any()):
            return False
    return True


def describe_normalization(normalize: MeanStd) -> str:
    """`mean/std` as `parse_normalize` reads it, `none` for one that changes nothing."""
    if set(normalize[0]) == {0.0} and set(normalize[1]) == {1.0}:
        return "none"
    return "/".join(",".join(f"{number:.4g}" for number in each) for each in normalize)


def parse_normalize(text: str) -> MeanStd:
    """`"imagenet"`, `"cifar10"`, `"mnist"`, `"0-255"` or `"0.5,0.5,0.5/0.2,0.2,0.2"` as (mean, std) in units of [0, 1].

    One number each serves all channels. Raises `InputError` for anything else (nothing is ever evaluated).
    """
    name = text.strip().lower()
    if name in NORMALIZATIONS:
        return NORMALIZATIONS[name]
    try:
        mean, std = (tuple(float(number) for number in part.split(",")) for part in text.split("/"))
    except ValueError:
        known = ", ".join(NORMALIZATIONS)
        raise InputError(
            f"normalisation '{text}' is not understood: give {known}, or mean/std like 0.5,0.5,0.5/0.2,0.2,0.2"
        ) from None
    check_normalization((mean, std), f"'{text}'")
    if max(mean) > 1:
        raise InputError(
            f"normalisation '{text}' is for pixels from 0 to 255, images here are in [0, 1]: divide by 255"
        )
    return mean, std


def check_normalization(normalize: MeanStd, called: str) -> None:
    """Raise `InputError` unless `normalize` is a mean and a std above 0 per channel; `called` names it."""
    try:
        mean, std = (tuple(float(number) for number in each) for each in normalize)
    except (TypeError, ValueError):
        raise InputError(f"normalisation {called} is no pair (mean, std) of numbers per channel: give one") from None
    if len(mean) != len(std):
        raise InputError(f"normalisation {called} has {len(mean)} mean and {len(std)} std: give one each per channel")
    if not all(math.isfinite(number) for number in mean + std) or min(std, default=0) <= 0:
        raise InputError(f"normalisation {called} cannot be computed: every std must be a number above 0")


def check_channels(normalize: MeanStd, channels: int) -> None:
    """Raise `InputError` for a normalisation of other images than those with so many channels."""
    if len(normalize[0]) not in (1, channels):
        raise InputError(
            f"the normalisation is for {len(normalize[0])} channels and the images have {channels}: "
            f"give {channels} numbers, or one for all"
        )
