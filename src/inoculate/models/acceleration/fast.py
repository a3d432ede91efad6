"""A faster copy of a classifier, for crafting adversarial examples on it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from inoculate.core.modes import device_of
from inoculate.models.acceleration.cached_convolutions import try_forms
from inoculate.models.acceleration.folding import fold_batchnorm
from inoculate.models.acceleration.hardware import has_native_bf16, set_memory_format


def fast(model: nn.Module) -> nn.Module:
    """A quicker stand-in for `model` in eval mode, with the same input and output types; `model` is untouched.

    Use it to craft examples only: the verdict on them belongs to the original. A network whose BatchNorm cannot be
    folded without changing its outputs is copied as it is. TorchScript, or a model that cannot be copied (an ONNX
    session, an open file), is returned itself.
    """
    model = original(model)
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return model
    device = device_of(model)
    with torch.inference_mode(False):  # autograd could not pass through tensors made under inference_mode
        try:
            copied = copy.deepcopy(model)
        except Exception:  # each such object refuses in its own way
            return model
        quick = fold_batchnorm(copied.eval().requires_grad_(False))
    return CraftingCopy(quick, torch.bfloat16 if has_native_bf16(device) else None, model)


def original(model: nn.Module) -> nn.Module:
    """The model that a `fast` copy stands in for; any other model itself."""
    return model.original[0] if isinstance(model, CraftingCopy) else model


@contextmanager
def full_precision(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, a `fast` copy calculates in fp32, for attacks that live on small differences; others stay as they are."""
    if not isinstance(model, CraftingCopy):
        yield model
        return
    dtype, model.dtype = model.dtype, None
    try:
        yield model
    finally:
        model.dtype = dtype


class CraftingCopy(nn.Module):
    """Runs `inner` on channels-last inputs (if it takes them), under autocast if a dtype is given; returns fp32 logits.

    `original` is kept beside it, in a tuple, so that it is no part of the copy: not moved, frozen or saved with it.
    """

    def __init__(self, inner: nn.Module, dtype: torch.dtype | None, original: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.dtype = dtype
        self.original = (original,)
        self.layout: torch.memory_format | None = None

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            if self.layout is None and x.ndim == 4:
                with torch.inference_mode(False), torch.autocast(x.device.type, enabled=False):
                    self.layout = set_memory_format(self.inner, x[:1])
                    try_forms(self.inner, x[:2].contiguous(memory_format=self.layout))
            logits: Tensor = self.inner(x.contiguous(memory_format=self.layout) if self.layout else x)
        return logits.float()
