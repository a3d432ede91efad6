"""A faster copy of a classifier, for crafting adversarial examples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from inoculate.core.calls import behaviour, call
from inoculate.core.copying import copy_module
from inoculate.core.modes import device_of, frozen, require_callable, set_eval
from inoculate.models.acceleration.cached_convolutions import cache_convolutions
from inoculate.models.acceleration.compiling import uncompiled
from inoculate.models.acceleration.folding import fold_batchnorm
from inoculate.models.acceleration.hardware import prefers_bf16, set_memory_format
from inoculate.models.acceleration.memory_formats import in_memory_format, keep_formats
from inoculate.models.acceleration.verification import Reference


def fast(model: nn.Module, *, bf16: bool | None = None) -> nn.Module:
    """A faster copy of `model` in eval mode, with the same input and output types; `model` is untouched.

    Use it to craft examples only: the original gives the verdict on them. BatchNorm is folded into convolutions, what
    is computed from weights alone is kept, and bf16 is used where the device is faster in it (`bf16` decides
    otherwise). At its first images the copy is compared with the original in full precision; one that differs, or
    cannot run, passes all images on to the original. At each attack it is compared again, and made anew where the
    original has changed since.
    TorchScript, a function, or a model that cannot be copied (an ONNX session, an open file), is returned itself.
    Raises `InputError` for what is no model.
    """
    require_callable(model)
    model = original(model)
    inner = _folded(model)
    if inner is None:
        return model
    use_bf16 = prefers_bf16(device_of(model)) if bf16 is None else bf16
    return CraftingCopy(inner, model, torch.bfloat16 if use_bf16 else None)


def _folded(model: nn.Module) -> nn.Module | None:
    """A copy in eval mode with BatchNorm folded; None where there can be none."""
    if not isinstance(model, nn.Module) or any(isinstance(m, torch.jit.ScriptModule) for m in model.modules()):
        return None
    with torch.inference_mode(False):  # autograd could not pass through tensors made under inference_mode
        try:
            copied = copy_module(uncompiled(model))
            return fold_batchnorm(set_eval(copied).requires_grad_(False))
        except Exception:  # each object that cannot be copied refuses in its own way
            return None


def original(model: nn.Module) -> nn.Module:
    """The model that a `fast` copy was made of; any other model itself."""
    return model.original[0] if isinstance(model, CraftingCopy) else model


def verified(model: nn.Module, images: Tensor) -> nn.Module:
    """A `fast` copy that gives the original's outputs on `images`, else the original; any other model itself."""
    if isinstance(model, CraftingCopy):
        if not model.verify(images):
            return original(model)
        model.follows = False
    return model


def follow_original(model: nn.Module, images: Tensor) -> None:
    """Make a `fast` copy anew if its original, on some of `images`, gives other outputs than it did.

    The copy in a prepared classifier is not compared again: it serves one job, in which the original stays as it is.
    """
    if isinstance(model, CraftingCopy) and model.follows and model.is_verified is not None and not model.verify(images):
        inner = _folded(original(model))
        model.inner = model.inner if inner is None else inner
        model.follows = model.verify(images)


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
        self.follows = True

    def forward(self, x: Tensor) -> Tensor:
        if self.is_verified is None and len(x):
            self.verify(x)
        if not self.is_verified:
            return self._original_logits(x)
        if behaviour(self.original[0]).edits_input:
            x = x.clone()
        with torch.autocast(x.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            x = x if self.memory_format is None else in_memory_format(x, self.memory_format)
            logits = call(self.inner, x)
        return logits.float()

    def verify(self, images: Tensor) -> bool:
        """Prepare the copy for images like these, and find out whether it gives the original's logits for them."""
        with torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
            reference = Reference(self.original[0], images)
            if images.ndim == 4:
                self.memory_format = set_memory_format(self.inner, reference.images[:1])
            kinds = [(module, type(module)) for module in self.inner.modules()]
            self.is_verified = reference.matches(keep_formats(cache_convolutions(self.inner)), self.memory_format)
            if not self.is_verified:  # for example because its weights change as it runs
                for module, kind in kinds:
                    module.__class__ = kind
                self.is_verified = reference.matches(self.inner, self.memory_format)
        return self.is_verified

    def _original_logits(self, x: Tensor) -> Tensor:
        records = torch.is_grad_enabled()
        with frozen(self.original[0]) as model, torch.set_grad_enabled(records):
            logits = call(model, x)
        return logits.float()
