"""The state in which torch runs a layer: traced or not, under autocast or not."""

from __future__ import annotations

import torch
from torch import Tensor


def is_traced() -> bool:
    """Whether torch compiles, traces or transforms what is run, to which a custom layer would be an obstacle."""
    traces = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return torch.compiler.is_compiling() or traces or torch._C._functorch.maybe_current_level() is not None


def cast_input(x: Tensor, weight: Tensor) -> tuple[Tensor, torch.dtype]:
    """`x` as autocast would cast it for a convolution with this kernel, and the dtype of the computation."""
    takes = x.is_floating_point() and torch.float64 not in (x.dtype, weight.dtype)
    if not takes or not torch.is_autocast_enabled(x.device.type):
        return x, weight.dtype
    dtype = torch.get_autocast_dtype(x.device.type)
    return x.to(dtype), dtype


def without_autocast(gradient: Tensor) -> torch.autocast:
    """A context for a backward pass: a gradient keeps the dtype of its forward pass, whatever surrounds it."""
    return torch.autocast(gradient.device.type, enabled=False)
