"""The architectures that neither timm nor torchvision has, by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from torch import nn

from inoculate.data.preprocessing import Size
from inoculate.models.architectures.certified_cnn import cnn7, dm_large, dm_medium, dm_medium_bn, dm_small
from inoculate.models.architectures.mnist_cnn import madry_cnn, trades_cnn, wong_cnn
from inoculate.models.architectures.small_cnn import SMALL_CNN, small_cnn
from inoculate.models.architectures.small_resnet import PreActResNet, SmallResNet
from inoculate.models.architectures.wide_resnet import SwishWideResNet, WideResNet

Make = Callable[[int, int, Size], nn.Module]  # classes, channels, size of the images
_RESNETS = r"(18|34|50)"
_WIDE = r"(?P<depth>\d+)_(?P<width>\d+)"


def own_architecture(name: str) -> Make | None:
    """What makes the network of this name from classes, channels and image size; None for a name of another library."""
    if name in _CNNS:
        return _CNNS[name]
    for pattern, make in _FAMILIES:
        if found := re.fullmatch(pattern, name):
            numbers = [int(each) for each in found.groups()]
            if len(numbers) == 2 and (numbers[0] < 10 or (numbers[0] - 4) % 6 or not numbers[1]):
                return None  # no such depth
            return lambda classes, channels, image_size: make(*numbers, classes, channels)
    return None


def alternatives(name: str) -> tuple[str, ...]:
    """Names of other definitions of the network that `name` means, tried where a file of weights does not fit it."""
    if re.fullmatch(f"resnet{_RESNETS}", name):
        return (f"{name}_cifar",)
    if re.fullmatch(f"preactresnet{_RESNETS}", name):
        return (f"{name}_kuangliu" if name.endswith("50") else f"{name}_nobn",)
    if re.fullmatch(f"wideresnet{_WIDE}", name):
        return f"{name}_nobias", f"{name}_swish"
    return ()


def doubt(name: str) -> str:
    """What cannot be learnt from the weights of this network and would change its outputs; empty where there is none.

    The definitions that it tells apart have parameters of the same names and shapes.
    """
    if re.fullmatch("preactresnet(18|34)_nobn", name):
        plain = name.removesuffix("_nobn")
        return (
            f"its shortcuts are taken before BatchNorm, as in RobustBench; for kuangliu's definition, which takes "
            f"them behind it, give {plain}_kuangliu"
        )
    return ""


_CNNS: dict[str, Make] = {
    SMALL_CNN: small_cnn,
    "trades_cnn": trades_cnn,
    "madry_cnn": madry_cnn,
    "wong_cnn": wong_cnn,
    "cnn7": cnn7,
    "cnn7_narrow": partial(cnn7, width=32),
    "dm_small": dm_small,
    "dm_medium": dm_medium,
    "dm_medium_bn": dm_medium_bn,
    "dm_medium_bn_wide": partial(dm_medium_bn, width=48),
    "dm_large": dm_large,
}
_FAMILIES: tuple[tuple[str, Callable[..., nn.Module]], ...] = (
    (f"resnet{_RESNETS}_cifar", SmallResNet),
    (f"preactresnet{_RESNETS}", PreActResNet),
    ("preactresnet(18|34)_nobn", partial(PreActResNet, final_bn=False, shortcut="raw")),
    (f"preactresnet{_RESNETS}_kuangliu", partial(PreActResNet, final_bn=False)),
    (f"wideresnet{_WIDE}", WideResNet),
    (f"wideresnet{_WIDE}_nobias", partial(WideResNet, head_bias=False)),
    (f"wideresnet{_WIDE}_swish", SwishWideResNet),
)
# For lists and suggestions; a wide ResNet may have any depth and width.
OWN_NAMES = (
    *_CNNS,
    *(f"resnet{depth}_cifar" for depth in (18, 34, 50)),
    *(f"preactresnet{depth}" for depth in (18, 34, 50)),
    *(f"preactresnet{depth}_kuangliu" for depth in (18, 34, 50)),
    *(f"preactresnet{depth}_nobn" for depth in (18, 34)),
    *(f"wideresnet{size}" for size in ("16_8", "28_10", "34_10", "34_20", "70_16")),
    *(f"wideresnet{size}_swish" for size in ("28_10", "34_10", "34_20", "70_16")),
)
