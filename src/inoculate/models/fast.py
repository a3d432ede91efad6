"""A copy of a classifier for crafting: BatchNorm folded, channels-last, bf16 where the processor gains from it."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from inoculate.models.pointwise import with_point_convolutions


def fast(model: nn.Module) -> nn.Module:
    """A quicker stand-in for `model` in eval mode, with the same input and output types; `model` is untouched.

    Use it to craft examples only: the verdict on them belongs to the original. A network whose BatchNorm cannot be
    folded without changing its outputs is copied as it is.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.inference_mode(False):  # autograd could not pass through tensors made under inference_mode
        plain = with_point_convolutions(copy.deepcopy(original(model)).eval().requires_grad_(False))
        quick = fold_batchnorm(plain).to(memory_format=torch.channels_last)
    return _Fast(quick, torch.bfloat16 if gains_from_bf16(device) else None, original(model))


def original(model: nn.Module) -> nn.Module:
    """The model that a `fast` copy stands in for; any other model itself."""
    return model.original[0] if isinstance(model, _Fast) else model


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A copy in eval mode with each BatchNorm that follows a convolution folded into it, or `model` if that fails.

    Convolution and BatchNorm are paired in the order in which their parent defines them. The order of execution may
    differ, so the result must reproduce the outputs of `model` on random features before it is trusted.
    """
    folded = copy.deepcopy(model).eval()
    pairs = 0
    for parent in folded.modules():
        for (first, conv), (second, norm) in itertools.pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and _foldable(conv, norm):
                setattr(parent, first, fuse_conv_bn_eval(conv, norm))
                setattr(parent, second, nn.Identity())
                pairs += 1
    return folded if pairs and _same_function(model, folded) else model


def _foldable(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    return type(norm) is nn.BatchNorm2d and norm.track_running_stats and conv.out_channels == norm.num_features


def gains_from_bf16(device: torch.device) -> bool:
    """Whether bf16 arithmetic is native on `device`; emulated bf16 is several times slower than fp32."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


class _Fast(nn.Module):
    """Runs `inner` on channels-last inputs, under autocast if a dtype is given, and returns fp32 logits.

    `original` is kept beside it, in a tuple, so that it is no part of the copy: not moved, frozen or saved with it.
    """

    def __init__(self, inner: nn.Module, dtype: torch.dtype | None, original: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.dtype = dtype
        self.original = (original,)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
        with torch.autocast(x.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            logits: Tensor = self.inner(x)
        return logits.float()


def _same_function(model: nn.Module, folded: nn.Module) -> bool:
    convolution = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    parameter = convolution.weight
    g = torch.Generator(parameter.device).manual_seed(0)
    for size in (32, 64, 224):  # the first size that the network takes decides
        x = torch.rand(
            4, convolution.in_channels, size, size, generator=g, device=parameter.device, dtype=parameter.dtype
        )
        try:
            with torch.no_grad():
                expected, got = copy.deepcopy(model).eval()(x), folded(x)
        except (RuntimeError, ValueError, AssertionError):
            continue
        return torch.allclose(expected, got, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    return False
