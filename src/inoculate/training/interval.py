"""Interval bounds of a chain of layers that a gradient passes through, for certified training.

Gowal et al. (2018), "On the effectiveness of interval bound propagation for training verifiably robust models". The
bounds are those of fp32 arithmetic without a margin: they train and select; what is reported is certified elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.models.normalize import Normalize

MONOTONE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Hardtanh)
POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
SHAPE = (nn.Flatten, nn.Identity, nn.Dropout)  # dropout does nothing: it would loosen the bounds
LAYERS = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, Normalize, *MONOTONE, *POOLING, *SHAPE)


@dataclass(frozen=True, eq=False)
class Box:
    """All values within `radius` of `centre` (both B×…); `points` (B×…, or None) pass through the layers beside it.

    BatchNorm in train mode takes its statistics from the points, without them from the centre.
    """

    centre: Tensor
    radius: Tensor
    points: Tensor | None = None

    @classmethod
    def around(cls, x: Tensor, threat: Threat, points: Tensor | None = None) -> Box:
        """All images within the L∞ ball at `x` (B×C×H×W) and the valid range."""
        low, high = (x - threat.eps).clamp_min(threat.low), (x + threat.eps).clamp_max(threat.high)
        return cls((low + high) / 2, (high - low) / 2, points)

    @property
    def low(self) -> Tensor:
        return self.centre - self.radius

    @property
    def high(self) -> Tensor:
        return self.centre + self.radius

    def scaled(self, scale: Tensor, shift: Tensor) -> Box:
        """The box times `scale` plus `shift` (both shaped to broadcast)."""
        points = None if self.points is None else self.points * scale + shift
        return Box(self.centre * scale + shift, self.radius * scale.abs(), points)


def chain_of(model: nn.Module) -> tuple[list[nn.Module], nn.Linear]:
    """The layers of a chain in their order, those of nested `nn.Sequential` included, and the last one.

    Raises `InputError` for a layer that has no interval bounds here, and unless the last one is linear.
    """
    layers = _flattened(model, "")
    if not layers or not isinstance(layers[-1], nn.Linear):
        raise InputError("certified training needs a network that ends in a linear layer: use cnn7 or small_cnn")
    return layers[:-1], layers[-1]


def through(layers: Sequence[nn.Module], box: Box) -> Box:
    """The box of values behind `layers`."""
    for layer in layers:
        box = _through(layer, box)
    return box


def margins(last: nn.Linear, box: Box, y: Tensor) -> Tensor:
    """Lower bounds of true logit minus each logit (B×K; 0 for the true one), from the box in front of the last layer.

    The last layer and the difference are one linear map, which is tighter than the difference of two bounds.
    """
    weight = last.weight[:, None] - last.weight[None]  # true class, other class, feature
    low = torch.einsum("bkf,bf->bk", weight[y], box.centre) - torch.einsum("bkf,bf->bk", weight.abs()[y], box.radius)
    return low if last.bias is None else low + (last.bias[:, None] - last.bias[None])[y]


def certified(model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """Which images (B) interval bounds prove right for all of `threat`; bool. The model is in eval mode."""
    hidden, last = chain_of(model)
    low = margins(last, through(hidden, Box.around(x, threat)), y)
    return (low.scatter(1, y[:, None], torch.inf) > 0).all(dim=1)


def _flattened(module: nn.Module, name: str) -> list[nn.Module]:
    if type(module) is nn.Sequential:
        return [layer for key, child in module.named_children() for layer in _flattened(child, f"{name}.{key}")]
    if isinstance(module, LAYERS):
        return [module]
    raise InputError(
        f"certified training knows no bounds of layer {name.lstrip('.') or 'model'} ({type(module).__name__}): it "
        "trains chains of convolutions, linear layers, BatchNorm, pooling and ReLU, such as cnn7"
    )


def as_affine(layer: nn.Module, box: Box) -> tuple[Tensor, Tensor] | None:
    """Scale and shift (broadcast) of a layer that scales each channel, for the box in front of it; None for others."""
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return batchnorm_affine(layer, box.centre if box.points is None else box.points)
    if isinstance(layer, Normalize):
        return 1 / layer.std, -layer.mean / layer.std
    return None


def _through(layer: nn.Module, box: Box) -> Box:
    affine = as_affine(layer, box)
    if affine is not None:
        return box.scaled(*affine)
    if isinstance(layer, nn.Conv2d | nn.Linear):
        return _weighted(layer, box)
    if isinstance(layer, nn.Dropout):
        return box
    if isinstance(layer, nn.Flatten | nn.Identity | nn.AvgPool2d | nn.AdaptiveAvgPool2d):
        return Box(layer(box.centre), layer(box.radius), None if box.points is None else layer(box.points))
    low, high = layer(box.low), layer(box.high)  # a copy each: a ReLU may work in place
    return Box((high + low) / 2, (high - low) / 2, None if box.points is None else layer(box.points))


def _weighted(layer: nn.Conv2d | nn.Linear, box: Box) -> Box:
    """Centre and points in one product; the radius through the absolute weights."""
    both = layer(box.centre if box.points is None else torch.cat([box.centre, box.points]))
    weight = layer.weight.abs()
    if isinstance(layer, nn.Linear):
        radius = F.linear(box.radius, weight)
    else:
        if layer.padding_mode != "zeros":
            raise InputError(f"certified training knows no padding '{layer.padding_mode}': use zeros")
        radius = F.conv2d(box.radius, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    count = len(box.centre)
    return Box(both[:count], radius, None if box.points is None else both[count:])


def batchnorm_affine(layer: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift of BatchNorm, shaped for `x` (B×C×…); in train mode from statistics of `x`, which it keeps."""
    shape = (1, -1, *[1] * (x.ndim - 2))
    if layer.training or layer.running_mean is None:
        var, mean = torch.var_mean(x, dim=[d for d in range(x.ndim) if d != 1], correction=0)
        _keep_statistics(layer, mean.detach(), var.detach(), x.numel() // x.shape[1])
    else:
        assert layer.running_var is not None
        mean, var = layer.running_mean, layer.running_var
    scale = (var + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight
    shift = -mean * scale if layer.bias is None else layer.bias - mean * scale
    return scale.view(shape), shift.view(shape)


@torch.no_grad()
def _keep_statistics(layer: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, var: Tensor, count: int) -> None:
    if layer.running_mean is None or layer.running_var is None or layer.num_batches_tracked is None:
        return
    layer.num_batches_tracked += 1
    momentum = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean, momentum)
    layer.running_var.lerp_(var * (count / max(count - 1, 1)), momentum)
