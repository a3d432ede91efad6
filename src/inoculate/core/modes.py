"""Borrow a model without leaving a trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode with no parameter gradients; every module's and parameter's flag is put back after.

    Inside, autograd records even if the caller is under `no_grad` or `inference_mode`: attacks need input gradients.
    fp32 means fp32 there: a GPU would otherwise round the inputs of convolutions to TF32's ten bits.
    A model in half precision takes fp32 images there: eps is less than its numbers can tell apart.
    """
    # A TorchScript module that was frozen before it was saved has no flag.
    modes = [(module, getattr(module, "training", False)) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    dtype = _dtype_of(model)
    hook, precise = None, _exact_fp32()
    try:
        if dtype.itemsize < 4:
            hook = model.register_forward_pre_hook(lambda _, images: (images[0].to(dtype), *images[1:]))
        for module, _ in modes:
            module.training = False
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield model
    finally:
        precise()
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        if hook is not None:
            hook.remove()


def _exact_fp32() -> Callable[[], None]:
    """Switch TF32 off; returns how to put all back.

    Torch has two sets of switches, and refuses to read the older once the newer has been used: the older unless so.
    """
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    try:
        return _switched([cudnn, matmul], "allow_tf32", False)
    except RuntimeError:
        return _switched([cudnn.conv, cudnn.rnn, matmul], "fp32_precision", "ieee")


def _switched(owners: Sequence[Any], name: str, value: object) -> Callable[[], None]:
    """Set an attribute of each owner, all of which are read first; returns how to put them back."""
    before = [getattr(owner, name) for owner in owners]

    def turn(values: Iterable[object]) -> None:
        for owner, each in zip(owners, values, strict=True):
            setattr(owner, name, each)

    turn([value] * len(owners))
    return lambda: turn(before)


def dtype_for(model: nn.Module) -> torch.dtype:
    """What images for a `frozen` model should be: of its own dtype, but at least fp32."""
    return torch.promote_types(_dtype_of(model), torch.float32)


def _dtype_of(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are; the CPU for a model without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


class OutOfTimeError(Exception):
    """A model was called after its deadline."""


@contextmanager
def until(model: nn.Module, deadline: float | None) -> Iterator[nn.Module]:
    """A model that raises `OutOfTimeError` when called after `deadline` (on `time.monotonic`); None for no deadline."""

    def check(*_: object) -> None:
        if deadline is not None and time.monotonic() > deadline:
            raise OutOfTimeError

    hook = None if deadline is None else model.register_forward_pre_hook(check)
    try:
        yield model
    finally:
        if hook is not None:
            hook.remove()


def has_batchnorm(model: nn.Module) -> bool:
    """Whether a layer of `model` normalises by the statistics of batches."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
