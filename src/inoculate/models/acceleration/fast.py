"""A faster copy of a classifier, for crafting adversarial examples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from inoculate.core.calls import behaviour, logits_of
from inoculate.core.copying import copy_module
from inoculate.core.modes import device_of, frozen
from inoculate.models.acceleration.cached_convolutions import cache_convolutions
from inoculate.models.acceleration.compiling import uncompiled
from inoculate.models.acceleration.folding import fold_batchnorm
from inoculate.models.acceleration.hardware import has_native_bf16, set_memory_format
from inoculate.models.acceleration.verification import Reference


def fast(model: nn.Module, *, bf16: bool | None = None) -> nn.Module:
    """A faster copy of `model` in eval mode, with the same input and output types; `model` is untouched.

    Use it to craft examples only: the original gives the verdict on them. BatchNorm is folded into convolutions, what
    is computed from weights alone is kept, and bf16 is used where the device has it (`bf16` decides otherwise). At its
    first images the copy is compared with the original in full precision; one that differs, or cannot run, passes all
    images on to the original. TorchScript, or a model that cannot be copied (an ONNX session, an open file), is
    returned itself.
    """
    model = original(model)
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return model
    with torch.inference_mode(False):  # autograd could not pass through tensors made under inference_mode
        try:
            copied = copy_module(uncompiled(model))
        except Exception:  # each such object refuses in its own way
            return model
        inner = fold_batchnorm(copied.eval().requires_grad_(False))
    use_bf16 = has_native_bf16(device_of(model)) if bf16 is None else bf16
    return CraftingCopy(inner, model, torch.bfloat16 if use_bf16 else None)


def original(model: nn.Module) -> nn.Module:
    """The model that a `fast` copy was made of; any other model itself."""
    return model.original[0] if isinstance(model, CraftingCopy) else model


def verified(model: nn.Module, images: Tensor) -> nn.Module:
    """A `fast` copy that gives the original's outputs on `images`, else the original; any other model itself."""
    if isinstance(model, CraftingCopy) and not model.verify(images):
        return original(model)
    return model


@contextmanager
def full_precision(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, a `fast` copy computes in fp32, for attacks that depend on small differences; others are unchanged."""
    if not isinstance(model, CraftingCopy):
        yield model
        return
    dtype, model.dtype = model.dtype, None
    try:
        yield model
    finally:
        model.dtype = dtype


class CraftingCopy(nn.Module):
    """What `fast` returns: runs `inner` in the memory format that suits it, under autocast to `dtype` if one is given.

    It returns fp32 logits. `original` is kept in a tuple, so that it is not a part of the copy: not moved, frozen or
    saved with it.
    """

    def __init__(self, inner: nn.Module, original: nn.Module, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.inner = inner
        self.original = (original,)
        self.dtype = dtype
        self.memory_format: torch.memory_format | None = None
        self.is_verified: bool | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.is_verified is None and len(x):
            self.verify(x)
        if not self.is_verified:
            return self._original_logits(x)
        if behaviour(self.original[0]).edits_input:
            x = x.clone()
        with torch.autocast(x.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            x = x if self.memory_format is None else x.contiguous(memory_format=self.memory_format)
            logits: Tensor = logits_of(self.inner(x))
        return logits.float()

    def verify(self, images: Tensor) -> bool:
        """Prepare the copy for images like these, and find out whether it gives the original's logits for them."""
        with torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
            reference = Reference(self.original[0], images)
            if images.ndim == 4:
                self.memory_format = set_memory_format(self.inner, reference.images[:1])
            kinds = [(module, type(module)) for module in self.inner.modules()]
            self.is_verified = reference.matches(cache_convolutions(self.inner), self.memory_format)
            if not self.is_verified:  # for example because its weights change as it runs
                for module, kind in kinds:
                    module.__class__ = kind
                self.is_verified = reference.matches(self.inner, self.memory_format)
        return self.is_verified

    def _original_logits(self, x: Tensor) -> Tensor:
        records = torch.is_grad_enabled()
        with frozen(self.original[0]) as model, torch.set_grad_enabled(records):
            logits: Tensor = logits_of(model(x))
        return logits.float()
