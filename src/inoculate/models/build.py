"""Classifiers by name, with normalisation inside and a stem that fits the images."""

from __future__ import annotations

import difflib
from typing import Literal, get_args

import torch
from torch import nn

from inoculate.core.errors import InputError, one_line
from inoculate.core.options import require_text
from inoculate.core.rng import seed_for
from inoculate.data.preprocessing import Size, as_sides
from inoculate.models.acceleration.small_maps import use_small_map_convolutions
from inoculate.models.architectures.libraries import (
    is_timm,
    is_torchvision,
    timm_network,
    torchvision_names,
    torchvision_network,
)
from inoculate.models.architectures.own import OWN_NAMES, own_architecture
from inoculate.models.normalize import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MeanStd,
    check_channels,
    check_normalization,
    normalized,
)
from inoculate.models.pretrained import TORCHVISION, input_config

Stem = Literal["imagenet", "small"]


def build_model(
    name: str,
    *,
    classes: int,
    channels: int = 3,
    image_size: Size = 32,
    stem: Stem = "imagenet",
    pretrained: bool = False,
    normalize: MeanStd | None = None,
    seed: int = 0,
) -> nn.Sequential:
    """A new classifier: float images in [0, 1], B×`channels`×`image_size`×`image_size` → logits B×`classes`.

    Args:
        name: a timm or torchvision architecture (`torchvision:NAME` where both have it), `small_cnn`, or one of the
            networks of the literature, such as `wideresnet28_10`, `preactresnet18`, `resnet18_cifar`, `trades_cnn`.
        classes: number of logits.
        channels: 1 (grey) or 3 (RGB).
        image_size: side in pixels, or (height, width).
        stem: `small` replaces a ResNet's 7×7 stride-4 stem by one 3×3 convolution, for small images (16 times the work,
            higher accuracy).
        pretrained: download timm's or torchvision's weights. Where their head has other classes, it is random.
        normalize: (mean, std) per channel; by default those of the pretrained weights, else ImageNet's (the average
            over channels for grey images), and none for networks of neither library.
        seed: of the weights; the global random state is untouched.

    Raises `InputError` for an unknown name, or an architecture that does not take these images.
    """
    check_name(name)
    if normalize is not None:
        check_normalization(normalize, repr(normalize))
        check_channels(normalize, channels)
    if stem not in get_args(Stem):
        raise InputError(f"stem '{stem}' is unknown: use {' or '.join(get_args(Stem))}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "weights", name))
        network = _network(name, classes, channels, image_size, pretrained)
        if stem == "small":
            _fit_small_stem(network, name)
    model = normalized(use_small_map_convolutions(network), *(normalize or default_normalization(name, channels)))
    _check_images(model, name, channels, image_size, classes)
    return model


def check_name(name: str) -> None:
    """Raise `InputError`, with the nearest known name, unless an architecture has this name."""
    require_text(network=name)
    if own_architecture(name) is not None or is_timm(name) or is_torchvision(name):
        return
    known = torchvision_names()
    if name.startswith(TORCHVISION) and not known:
        raise InputError(f"network '{name}' needs torchvision: pip install torchvision")
    import timm

    prefixed = [f"{TORCHVISION}{each}" for each in known]
    near = difflib.get_close_matches(name, [*OWN_NAMES, *timm.list_models(), *known, *prefixed], n=1)
    hint = f"did you mean '{near[0]}'?" if near else "use small_cnn, a timm name such as resnet18 or a torchvision name"
    hint += "" if known else " (torchvision, which has more, is not installed: pip install torchvision)"
    raise InputError(f"network '{name}' is unknown: {hint}")


def parameter_count(model: nn.Module) -> int:
    """Number of scalars in all parameters."""
    return sum(p.numel() for p in model.parameters())


def default_normalization(name: str, channels: int) -> MeanStd:
    """(mean, std) before a network of this name: those of its pretrained weights, else ImageNet's.

    Grey images get the average over the channels. Networks of neither timm nor torchvision take pixels as they are.
    """
    if own_architecture(name) is not None:
        return (0.0,) * channels, (1.0,) * channels
    config = input_config(name)
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if config is None else config.normalize
    return _for_channels(mean, channels), _for_channels(std, channels)


def _network(name: str, classes: int, channels: int, image_size: Size, pretrained: bool) -> nn.Module:
    make = own_architecture(name)
    if make is None:
        from_library = timm_network if is_timm(name) else torchvision_network
        return from_library(name, classes, channels, image_size, pretrained)
    if pretrained:
        raise InputError(f"{name} has no pretrained weights: leave pretrained out")
    return make(classes, channels, image_size)


def _for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values if channels == len(values) else (sum(values) / len(values),) * channels


def _fit_small_stem(network: nn.Module, name: str) -> None:
    layers = dict(network.named_children())
    conv = layers.get("conv1")
    if not isinstance(conv, nn.Conv2d) or "maxpool" not in layers:
        raise InputError(f"stem 'small' fits ResNets, not '{name}': use stem: imagenet")
    network.conv1 = nn.Conv2d(conv.in_channels, conv.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()


def _check_images(model: nn.Module, name: str, channels: int, image_size: Size, classes: int) -> None:
    """Run the network on one image, so that a size that it cannot take is found at once."""
    training, (height, width) = model.training, as_sides(image_size)
    try:
        with torch.no_grad():
            out = model.eval()(torch.zeros(1, channels, height, width))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise InputError(
            f"network '{name}' does not take {height}×{width} images ({one_line(error)}): choose another image_size"
        ) from error
    finally:
        model.train(training)
    if tuple(out.shape) != (1, classes):
        raise InputError(
            f"network '{name}' gives outputs of shape {tuple(out.shape)}, not (1, {classes}): "
            "choose a classification network"
        )
