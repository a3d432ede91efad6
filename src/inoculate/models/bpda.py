"""Backward pass differentiable approximation: exact outputs, and the gradient of something that has one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.core.errors import InputError, suggest
from inoculate.models.acceleration.compiling import is_compiled, uncompiled

Function = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    """`x` itself: passes a gradient on as it comes (the straight-through estimator)."""
    return x


class BPDA(nn.Module):
    """Computes `forward(x)`, and passes gradients back as `backward` would.

    For a layer or a step of preprocessing without a useful gradient, such as a rounding or a JPEG compression: attacks
    on a model that contains it are white-box again.

    Args:
        forward: a module or function of one tensor; it may use anything, such as numpy or a detached copy.
        backward: a differentiable module or function of the same tensor, about equal to `forward`, with results of the
            same shape.

    A pass raises `InputError` where the two results differ in shape, or are no floats.
    Source: Athalye et al. 2018a, section 4.1.
    """

    def __init__(self, forward: Function, backward: Function = identity) -> None:
        super().__init__()
        for name, function in (("forward", forward), ("backward", backward)):
            if isinstance(function, type) or not callable(function):
                raise InputError(f"{name} of BPDA is {function!r}: give a module or a function of one tensor")
        self.exact, self.approximation = forward, backward

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.exact(x.clone())  # which may be written to
        with torch.no_grad():
            exact = self.exact(x.detach().clone())
        approximate = self.approximation(x)
        if exact.shape != approximate.shape or not exact.is_floating_point():
            raise InputError(
                f"BPDA: forward gives {exact.dtype} of shape {tuple(exact.shape)} and backward shape "
                f"{tuple(approximate.shape)}: they must give floats of the same shape"
            )
        found: Tensor = _GradientOf.apply(exact, approximate)
        return found


class _GradientOf(torch.autograd.Function):
    """The first tensor, with the gradient of the second."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, approximate: Tensor) -> Tensor:
        return exact.view_as(exact)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


@contextmanager
def bypass(model: nn.Module, submodules: Mapping[str, Function]) -> Iterator[nn.Module]:
    """Inside, gradients pass through some submodules of `model` as through others; its outputs stay as they are.

    `with bypass(model, {"quantise": identity}): evaluate(model, …)` evaluates with attacks adapted to a model that
    hides its gradients in its layer `quantise`. The model is changed in place, and restored after.

    Args:
        model: any module; not one that is compiled or TorchScript.
        submodules: from names, as in `model.named_modules()`, to what stands for them in the backward pass: `backward`
            of `BPDA`.

    Raises `InputError` for a name that is not there, and for a model whose submodules cannot be replaced.
    """
    if isinstance(model, torch.jit.ScriptModule) or uncompiled(model) is not model or is_compiled(model):
        raise InputError("submodules of a compiled model or of TorchScript cannot be bypassed: give the module itself")
    places = [(*_parent_of(model, name), backward) for name, backward in submodules.items()]
    before = [(parent, own, parent.get_submodule(own)) for parent, own, _ in places]
    try:
        for (parent, own, module), (_, _, backward) in zip(before, places, strict=True):
            replacement = BPDA(module, backward)
            replacement.training = module.training
            setattr(parent, own, replacement)
        yield model
    finally:
        for parent, own, module in reversed(before):
            setattr(parent, own, module)


def _parent_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds the submodule `name`, and what it is called there."""
    names = [each for each, _ in model.named_modules(remove_duplicate=False) if each]
    if name not in names:
        raise InputError(f"the model has no submodule '{name}': {suggest(name, names)}")
    parent, _, own = name.rpartition(".")
    return model.get_submodule(parent), own
