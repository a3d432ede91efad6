"""Attribution maps: integrated gradients by Captum, and Grad-CAM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inoculate.attribution.features import FeatureMaps, last_maps


def integrated_gradients(
    model: nn.Module, x: Tensor, classes: Tensor, steps: int, batch_size: int | None = None
) -> Tensor:
    """The attribution of every pixel to the logit of its image's class (B), summed over the channels: B×H×W.

    The path of `steps` points starts at black, so the sum over the pixels is the logit minus that of a black image. No
    pass holds more than `batch_size` points. Source: Sundararajan et al. (2017).
    """
    from captum.attr import IntegratedGradients

    method, most = IntegratedGradients(model), batch_size or len(x) * steps
    found = [
        method.attribute(some, target=target, n_steps=steps, internal_batch_size=most).sum(dim=1).detach()
        for some, target in zip(*(torch.split(each, max(1, most // steps)) for each in (x, classes)), strict=True)
    ]
    return torch.cat(found)


def grad_cam(model: nn.Module, x: Tensor, classes: Tensor) -> Tensor | None:
    """Grad-CAM for the class (B) on the last feature maps (see `last_maps`): B×H×W, ≥ 0; None for a network without."""
    maps = last_maps(model, x[:1])
    return None if maps is None else grad_cam_on(maps, model, x, classes)


def grad_cam_on(maps: FeatureMaps, model: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """Grad-CAM for the class (B) on these feature maps of the model: B×H×W, ≥ 0.

    Source: Selvaraju et al. (2017), equations 1 and 2.
    """
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # what follows may change it in place

    hook = maps.layer.register_forward_hook(keep)
    try:
        logits = model(x.detach().requires_grad_())
    finally:
        hook.remove()
    values = logits.gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(values, kept[-1], materialize_grads=True)
    features, gradient = maps.placed(kept[-1].detach()), maps.placed(gradient)
    cam = (gradient.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1, keepdim=True).relu()
    return nn.functional.interpolate(cam, x.shape[2:], mode="bilinear")[:, 0]
