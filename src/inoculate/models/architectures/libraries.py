"""Networks of timm and torchvision by name, with the classes, channels and size that are wanted."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.core.errors import InputError, one_line
from inoculate.data.preprocessing import Size, as_sides, format_size
from inoculate.models.pretrained import TORCHVISION

_log = logging.getLogger(__name__)
IMAGENET_CLASSES = 1000
# Outputs for training alone, which some of torchvision's networks have.
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


def is_timm(name: str) -> bool:
    """Whether timm has an architecture of this name, with or without a tag such as `.a1_in1k`."""
    import timm

    return not name.startswith(TORCHVISION) and bool(timm.is_model(name))


def is_torchvision(name: str) -> bool:
    """Whether this is `torchvision:NAME`, or a name that torchvision alone has; False where it is not installed."""
    return not is_timm(name) and name.removeprefix(TORCHVISION) in torchvision_names()


def other_library(name: str) -> tuple[str, ...]:
    """torchvision's network of the same name as timm's, whose parameters may have other names."""
    return (f"{TORCHVISION}{name}",) if is_timm(name) and name in torchvision_names() else ()


def torchvision_names() -> tuple[str, ...]:
    """torchvision's classifiers; none where it is not installed."""
    try:
        from torchvision import models
    except ImportError:
        return ()
    return tuple(models.list_models(module=models))


def timm_network(name: str, classes: int, channels: int, image_size: Size, pretrained: bool) -> nn.Module:
    """timm's network of this name; where its head is new and the rest is pretrained, a warning says so.

    Raises `InputError` if pretrained weights cannot be had.
    """
    import timm

    options: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        options["img_size"] = image_size
    try:
        network: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    except RuntimeError as error:
        if pretrained and "pretrained" in str(error):  # timm knows no weights
            raise InputError(f"{name} has no pretrained weights: leave pretrained out") from error
        raise _does_not_take(name, image_size, error) from error
    except OSError as error:
        raise _no_download(name) from error
    except (TypeError, ValueError, AssertionError) as error:  # of sizes and channels that it was not made for
        raise _does_not_take(name, image_size, error) from error
    if pretrained and config is not None and config.num_classes not in (None, classes):
        _warn_random_head(name, config.num_classes, classes)
    return network


def torchvision_network(name: str, classes: int, channels: int, image_size: Size, pretrained: bool) -> nn.Module:
    """torchvision's network of this name, without auxiliary outputs; see `timm_network`.

    GoogLeNet and Inception v3 change the normalisation of their images themselves where they have pretrained weights
    or 1,000 classes, as torchvision's own do.
    """
    from torchvision import models

    name = name.removeprefix(TORCHVISION)
    options: dict[str, Any] = {"num_classes": classes, "weights": None}
    if name in ("googlenet", "inception_v3"):
        converts = channels == 3 and (pretrained or classes == IMAGENET_CLASSES)
        options |= {"aux_logits": False, "init_weights": True, "transform_input": converts}
    if name.startswith("vit_"):
        if not isinstance(image_size, int):
            raise _does_not_take(name, image_size, ValueError("its images are square"))
        options["image_size"] = image_size
    if name.startswith("maxvit"):
        options["input_size"] = as_sides(image_size)
    try:
        network: nn.Module = models.get_model(name, **options)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _does_not_take(name, image_size, error) from error
    if channels != 3:
        _take_channels(network, channels)
    if pretrained:
        _load_torchvision_weights(network, name, classes, channels, image_size)
    return network


def _load_torchvision_weights(network: nn.Module, name: str, classes: int, channels: int, image_size: Size) -> None:
    from timm.models import adapt_input_conv
    from torchvision import models
    from torchvision.models.vision_transformer import interpolate_embeddings

    weights = models.get_model_weights(name).DEFAULT
    try:
        state: dict[str, Tensor] = dict(weights.get_state_dict(progress=False))
    except (OSError, RuntimeError) as error:
        raise _no_download(name) from error
    state = {key: value for key, value in state.items() if not key.startswith(AUXILIARY)}
    if name.startswith("vit_"):
        patch = int(name.rsplit("_", 1)[1])
        state = dict(interpolate_embeddings(as_sides(image_size)[0], patch, state))
    own = network.state_dict()
    if channels != 3:
        first = next(key for key, value in state.items() if value.ndim == 4)
        state[first] = adapt_input_conv(channels, state[first])
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    left = {key.rpartition(".")[0] for key in own if key not in fitting and not key.endswith("num_batches_tracked")}
    if len(left) > 1:
        raise _does_not_take(name, image_size, RuntimeError(f"its pretrained {', '.join(sorted(left)[:5])} do not fit"))
    network.load_state_dict(fitting, strict=False)
    if left:
        _warn_random_head(name, IMAGENET_CLASSES, classes)


def _take_channels(network: nn.Module, channels: int) -> None:
    """Give a network for three channels a first convolution for another number."""
    path, conv = next((path, module) for path, module in network.named_modules() if isinstance(module, nn.Conv2d))
    new = nn.Conv2d(
        channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )  # fmt: skip
    with torch.no_grad():
        new.weight.normal_(std=float(conv.weight.std()))
        if new.bias is not None:
            new.bias.zero_()
    parent, _, child = path.rpartition(".")
    network.get_submodule(parent).add_module(child, new)


def _warn_random_head(name: str, pretrained: int, classes: int) -> None:
    _log.warning(
        "network '%s' has a random head for %d classes, because its pretrained one has %d: train it before it is "
        "measured", name, classes, pretrained,
    )  # fmt: skip


def _no_download(name: str) -> InputError:
    return InputError(f"pretrained weights of '{name}' cannot be downloaded: set pretrained: false, or give weights")


def _does_not_take(name: str, image_size: Size, error: Exception) -> InputError:
    return InputError(
        f"network '{name}' does not take {format_size(image_size)} images ({one_line(error)}): "
        "choose another image_size"
    )
