"""Networks compiled for the time of a block (`torch.compile`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from inoculate.core.errors import InputError, one_line
from inoculate.core.modes import device_of


@contextmanager
def compiled(model: nn.Module, wanted: bool = True) -> Iterator[nn.Module]:
    """Inside, `model` runs compiled (`torch.compile`); its first pass of each kind compiles it.

    Raises `InputError` if it cannot be compiled on this machine.
    """
    if not wanted:
        yield model
        return
    from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException

    before = model._compiled_call_impl
    compile_in_place(model)
    try:
        yield model
    except TorchDynamoException as error:
        # What the compiler said, not what dynamo says about it.
        cause = error.inner_exception if isinstance(error, BackendCompilerFailed) else error
        raise InputError(
            f"the network cannot be compiled here ({one_line(cause)}): leave compile out, or install a C++ compiler "
            "(on a GPU: Triton)"
        ) from error
    finally:
        model._compiled_call_impl = before


def is_compiled(model: nn.Module) -> bool:
    """Whether `model` was compiled in place."""
    return model._compiled_call_impl is not None


@contextmanager
def eager(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, a model that was compiled in place runs as it was before, and nothing is compiled."""
    if not is_compiled(model):  # and no attribute is set, which TorchScript would compile
        yield model
        return
    before, model._compiled_call_impl = model._compiled_call_impl, None
    try:
        yield model
    finally:
        model._compiled_call_impl = before


def uncompiled(model: nn.Module) -> nn.Module:
    """The model inside what `torch.compile(model)` returned; any other model itself."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled, and the import takes long
        return model
    from torch._dynamo.eval_frame import OptimizedModule

    inner: nn.Module = model._orig_mod if isinstance(model, OptimizedModule) else model
    return inner


def compile_in_place(model: nn.Module) -> None:
    """Compile `model` at its next pass; on a GPU into CUDA graphs.

    The host needs longer to launch the kernels of a pass one by one than a GPU needs to run them.
    """
    model.compile(mode="reduce-overhead" if device_of(model).type == "cuda" else None)
