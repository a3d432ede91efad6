"""Attribution maps by Captum: integrated gradients and Grad-CAM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST_MAP = 4  # pixels on a side: a smaller map has hardly any spatial resolution


def integrated_gradients(model: nn.Module, x: Tensor, classes: Tensor, steps: int) -> Tensor:
    """The attribution of every pixel to the logit of its image's class (B), summed over the channels: B×H×W.

    The path of `steps` points starts at black, so the sum over the pixels is the logit minus that of a black image.
    Source: Sundararajan et al. (2017).
    """
    from captum.attr import IntegratedGradients

    attribution: Tensor = IntegratedGradients(model).attribute(x, target=classes, n_steps=steps)
    return attribution.sum(dim=1).detach()


def grad_cam(model: nn.Module, x: Tensor, classes: Tensor) -> Tensor | None:
    """Grad-CAM for the class (B) on the last feature maps (see `last_maps`): B×H×W, ≥ 0; None for a network without.

    Source: Selvaraju et al. (2017).
    """
    from captum.attr import LayerAttribution, LayerGradCam

    layer = last_maps(model, x[:1])
    if layer is None:
        return None
    cam = LayerGradCam(model, layer).attribute(x.detach().requires_grad_(), target=classes, relu_attributions=True)
    resized: Tensor = LayerAttribution.interpolate(cam, tuple(x.shape[2:]), "bilinear")
    return resized[:, 0].detach()


def last_maps(model: nn.Module, image: Tensor) -> nn.Module | None:
    """The last block, in the order of execution, whose output is feature maps of 4×4 or more; None without any.

    Blocks are the network's children and those of its sequences; where none qualifies, those of its largest child.
    """
    ended: dict[nn.Module, None] = {}  # in order: a dict keeps the order of insertion

    def note(module: nn.Module, _: Any, output: Any) -> None:
        ended.pop(module, None)
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) >= SMALLEST_MAP:
            ended[module] = None

    takes_hooks = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    hooks = [module.register_forward_hook(note) for module in takes_hooks]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    order, part = list(ended), model
    while blocks := [block for block in _blocks(part) if _size(block)]:
        if found := [block for block in blocks if block in ended]:
            return max(found, key=order.index)
        part = max(blocks, key=_size)
    return None


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.Sequential):
            yield from _blocks(child)
        else:
            yield child


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
