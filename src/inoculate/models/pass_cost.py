"""What one pass of a model takes, in arithmetic and in memory, and how many images fit into a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from inoculate.core.modes import frozen
from inoculate.core.rng import seeded
from inoculate.models.acceleration.compiling import eager, uncompiled

BATCH_BYTES, GPU_BATCH_BYTES = 2**30, 2**33  # that a batch may take
MOST_IMAGES = 256
WITH_GRADIENTS = 2  # times the memory of a pass: gradients and workspace; measured: 1.6 (MobileNetV2), 1.3 (ResNet-50)
_UNKNOWN_FLOPS, _UNKNOWN_BYTES = 20_000, 500  # per value of an image, where a model cannot be observed


@dataclass(frozen=True)
class PassCost:
    """Of one image: floating-point operations of a forward pass, and bytes of all that it computes."""

    flops: int
    bytes: int

    def largest_batch(self, device: torch.device) -> int:
        """How many images a pass with gradients may hold to stay within 1 GiB on a CPU, 8 GiB elsewhere."""
        most = BATCH_BYTES if device.type == "cpu" else GPU_BATCH_BYTES
        return max(1, min(MOST_IMAGES, most // max(WITH_GRADIENTS * self.bytes, 1)))


def pass_cost(model: nn.Module, image: Tensor) -> PassCost:
    """The cost of `model` on images like this one (1×C×H×W), counted in one pass; the same on every machine.

    Memory counts every tensor that is computed, kept for the gradient or not.
    """
    from torch.utils.flop_counter import FlopCounterMode

    flops, memory = FlopCounterMode(display=False), _Allocations()
    try:
        with seeded(0), frozen(model), eager(uncompiled(model)) as network, torch.no_grad(), flops, memory:
            network(image.clone())
    except Exception:  # whatever the model does that cannot be observed: its first pass that counts will tell
        return PassCost(_UNKNOWN_FLOPS * image.numel(), _UNKNOWN_BYTES * image.numel())
    counted = flops.get_total_flops() or _UNKNOWN_FLOPS * image.numel()  # of an ONNX session nothing is seen
    return PassCost(counted, memory.bytes or _UNKNOWN_BYTES * image.numel())


class _Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of every storage that an operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {each.data_ptr() for each in args if isinstance(each, Tensor)}
        found = function(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else (found,):
            if isinstance(each, Tensor) and each.data_ptr() not in known:
                self.bytes += each.numel() * each.element_size()
        return found
