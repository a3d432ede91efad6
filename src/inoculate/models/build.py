"""Classifiers by timm name, with normalisation inside and a stem that fits the images."""

from __future__ import annotations

import difflib
from typing import Any, Literal, get_args

import torch
from torch import nn

from inoculate.core.errors import InputError, one_line
from inoculate.core.rng import seed_for
from inoculate.data.preprocessing import Size
from inoculate.models.acceleration.small_maps import use_small_map_convolutions
from inoculate.models.normalize import IMAGENET_MEAN, IMAGENET_STD, MeanStd, normalized
from inoculate.models.small_cnn import SMALL_CNN, small_cnn

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
        name: any timm architecture, or `small_cnn`.
        classes: number of logits.
        channels: 1 (grey) or 3 (RGB).
        image_size: side in pixels, or (height, width).
        stem: `small` replaces a ResNet's 7×7 stride-4 stem by one 3×3 convolution, for small images (16 times the work,
            higher accuracy).
        pretrained: download timm's weights.
        normalize: (mean, std) per channel; by default that of ImageNet (the average over channels for grey images), and
            none for `small_cnn`.
        seed: of the weights; the global random state is untouched.

    Raises `InputError` for an unknown name, or an architecture that does not take these images.
    """
    check_name(name)
    if stem not in get_args(Stem):
        raise InputError(f"stem '{stem}' is unknown: use {' or '.join(get_args(Stem))}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "weights", name))
        if name == SMALL_CNN:
            network: nn.Module = small_cnn(classes, channels, image_size)
        else:
            network = _from_timm(name, classes, channels, image_size, pretrained)
        if stem == "small":
            _fit_small_stem(network, name)
    model = normalized(use_small_map_convolutions(network), *(normalize or _default_normalization(name, channels)))
    _check_images(model, name, channels, image_size, classes)
    return model


def _from_timm(name: str, classes: int, channels: int, image_size: Size, pretrained: bool) -> nn.Module:
    import timm

    options: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        options["img_size"] = image_size
    try:
        network: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    except OSError as error:
        raise InputError(f"pretrained weights of '{name}' cannot be downloaded: set pretrained: false") from error
    return network


def check_name(name: str) -> None:
    """Raise `InputError`, with the nearest known name, unless this is `small_cnn` or a timm architecture."""
    import timm

    if name != SMALL_CNN and not timm.is_model(name):
        near = difflib.get_close_matches(name, [SMALL_CNN, *timm.list_models()], n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"use {SMALL_CNN} or a timm name such as resnet18"
        raise InputError(f"network '{name}' is unknown: {hint}")


def parameter_count(model: nn.Module) -> int:
    """Number of scalars in all parameters."""
    return sum(p.numel() for p in model.parameters())


def _default_normalization(name: str, channels: int) -> MeanStd:
    if name == SMALL_CNN:
        return (0.0,) * channels, (1.0,) * channels
    return _for_channels(IMAGENET_MEAN, channels), _for_channels(IMAGENET_STD, channels)


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
    training, (height, width) = model.training, (image_size,) * 2 if isinstance(image_size, int) else image_size
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
