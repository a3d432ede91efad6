"""How a model is run: its mode, its parameters' flags, its precision and its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from inoculate.core.calls import pure_calls
from inoculate.core.errors import InputError
from inoculate.core.functions import modules_behind


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode with no parameter gradients; every module's mode and parameter's flag is restored.

    Inside, autograd records even if the caller is under `no_grad` or `inference_mode`: attacks need input gradients.
    The model changes no input and returns logits (see `pure_calls`). fp32 means fp32: TF32, which rounds the inputs of
    convolutions to ten bits on a GPU, is off. A model in half precision takes fp32 images, because eps may be smaller
    than what half precision resolves. Of a function the modules that it runs are frozen. Raises `InputError` for what
    is no model, and for weights that cannot be used.
    """
    require_callable(model)
    with _without_tf32(), torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
        for module in modules_of(model):
            stack.enter_context(_eval_mode(module))
            stack.enter_context(_no_parameter_gradients(module))
        if isinstance(model, nn.Module):
            stack.enter_context(_images_cast(model))
            stack.enter_context(pure_calls(model))
        yield model


def require_callable(model: object) -> None:
    """Raise `InputError` unless `model` is a module or a function."""
    if isinstance(model, type):
        raise InputError(f"model is the class {model.__name__}: give an object, {model.__name__}(...)")
    if not callable(model):
        raise InputError(
            f"model is {type(model).__name__}: give an nn.Module, a function from images to logits, or a model SPEC"
        )


def modules_of(model: Any) -> list[nn.Module]:
    """The model itself if it is a module; of a function, the modules that it runs."""
    return [model] if isinstance(model, nn.Module) else modules_behind(model)


def set_eval(model: nn.Module) -> nn.Module:
    """Put `model` into eval mode. The mode of a program exported by `torch.export` is fixed; it stays as it is."""
    try:
        return model.eval()
    except NotImplementedError:
        return model


def _require_weights(parameter: nn.Parameter) -> None:
    """Raise `InputError` for weights that have no values yet, or through which no gradient can pass."""
    if is_lazy(parameter):
        raise InputError("the model has a lazy layer whose weights have no values yet: run it on some images first")
    if parameter.is_meta:
        raise InputError("the model's weights are on the meta device, without values: load them")
    if parameter.is_inference():
        raise InputError(
            "the model's weights were made under torch.inference_mode(), so that no gradient passes: build or load "
            "the model outside of it"
        )


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode through the model's own `eval()`; each module's mode is restored through its own `train()`.

    A module may do more in `train()` than set the flag. One that has all flags off already is left alone.
    """
    before = [(module, _is_training(module)) for module in model.modules()]
    try:
        if any(training for _, training in before):
            set_eval(model)
        yield
    finally:
        for module, training in before:  # parents first: `train()` sets the modules below, which follow
            if _is_training(module) != training:
                module.train(training)
        for module, training in before:  # a module's own `train()` may decide otherwise
            if _is_training(module) != training:
                module.training = training


@contextmanager
def _no_parameter_gradients(model: nn.Module) -> Iterator[None]:
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in before:
        _require_weights(parameter)
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)


@contextmanager
def _images_cast(model: nn.Module) -> Iterator[None]:
    """Images cast to the model's dtype as they enter it, where that is a half precision."""
    dtype = _dtype_of(model)
    if dtype.itemsize >= 4 or isinstance(model, torch.jit.ScriptModule):  # which takes no hooks
        yield
        return
    hook = model.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(dtype), *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _without_tf32() -> Iterator[None]:
    """TF32 switched off.

    Torch has two sets of switches and refuses to read the older once the newer has been used: the older unless so.
    """
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    value: object
    try:
        owners, name, value = [cudnn, matmul], "allow_tf32", False
        before = _values(owners, name)
    except RuntimeError:
        owners, name, value = [cudnn.conv, cudnn.rnn, matmul], "fp32_precision", "ieee"
        before = _values(owners, name)
    try:
        for owner in owners:
            setattr(owner, name, value)
        yield
    finally:
        for owner, each in zip(owners, before, strict=True):
            setattr(owner, name, each)


def _values(owners: Sequence[Any], name: str) -> list[object]:
    return [getattr(owner, name) for owner in owners]


def dtype_for(model: nn.Module) -> torch.dtype:
    """The dtype of images for a `frozen` model: the model's own, but at least fp32."""
    dtype = _dtype_of(model)
    return dtype if dtype.itemsize >= 4 else torch.float32


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's parameters; the CPU for a model without any."""
    return next((parameter.device for parameter in _parameters(model)), torch.device("cpu"))


def has_batchnorm(model: nn.Module) -> bool:
    """Whether a layer of `model` normalises by the statistics of batches."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def _dtype_of(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in _parameters(model) if p.is_floating_point()), torch.float32)


def _parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for module in modules_of(model) for parameter in module.parameters() if not is_lazy(parameter))


def _is_training(module: nn.Module) -> bool:
    try:
        return module.training
    except AttributeError:  # a TorchScript module that was frozen before it was saved has no flag
        return False
