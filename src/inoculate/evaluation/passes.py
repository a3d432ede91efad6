"""Passes through a classifier: counted, and how many of them checks and explanations may make.

The unit is a forward pass of one image; a pass with gradients counts as two. Both are counted, not timed, so that the
same run checks the same images on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.core.options import require_count
from inoculate.data.dataset import Dataset
from inoculate.models.acceleration.compiling import is_compiled
from inoculate.models.acceleration.fast import CraftingCopy
from inoculate.models.classifier import Classifier
from inoculate.models.pass_cost import PassCost, pass_cost

GRADIENT = 2  # of a pass with gradients; measured: 2.0 (MobileNetV2), 2.1 (ResNet-50), 2.3 (ViT-tiny)
FLOOR_FLOPS, GPU_FLOOR_FLOPS = 3 * 10**11, 3 * 10**13  # some seconds of a CPU core, of a GPU
LEAST_FLOPS = 10**6  # of a pass: below, its calls take the time
ATTACKS_SHARE = 0.75  # of the attacks' passes is allowed: small batches, pictures and counting take the rest
CHECKS_SHARE = 0.6  # of what is allowed, the rest is for explanations

Observer = Callable[[float], None]


@dataclass
class Passes:
    """How many passes were made so far."""

    made: float = 0.0


@contextmanager
def counted(*classifiers: Classifier, observer: Observer | None = None) -> Iterator[Passes]:
    """Count the passes that classifiers and their copies make inside; `observer(made)` is called at each.

    Those of TorchScript and of modules compiled in place, which take no hooks, are not counted.
    """
    passes = Passes()

    def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            with_gradient = torch.is_grad_enabled() and inputs[0].requires_grad
            passes.made += len(inputs[0]) * (GRADIENT if with_gradient else 1)
            if observer:
                observer(passes.made)

    with ExitStack() as stack:
        for module in dict.fromkeys(module for each in classifiers for module in _counted_modules(each)):
            stack.callback(module.register_forward_pre_hook(note).remove)
        yield passes


def _counted_modules(classifier: Classifier) -> list[nn.Module]:
    """The model, and what is inside of its copy: a copy that does not fit passes its images on to the model."""
    crafting = classifier.crafting
    both = [classifier.model, crafting.inner if isinstance(crafting, CraftingCopy) else crafting]
    return [each for each in both if not isinstance(each, torch.jit.ScriptModule) and not is_compiled(each)]


def cost_of(classifier: Classifier, data: Dataset) -> PassCost:
    """What a pass of the classifier costs on one image of the data."""
    x, _ = classifier.load(data, torch.arange(min(1, len(data))))
    return pass_cost(classifier.model, x)


def batch_within_memory(classifier: Classifier, data: Dataset, wanted: int | None = None) -> int:
    """The batch size that is `wanted`, or without one what fits into memory."""
    return wanted or (cost_of(classifier, data).largest_batch(classifier.device) if len(data) else 1)


def allowed_passes(made: float, cost: PassCost, device: torch.device) -> float:
    """How many passes checks and explanations may make together: fewer than the attacks, at least some seconds' worth.

    `made`: by the attacks and on the clean images.
    """
    floor = FLOOR_FLOPS if device.type == "cpu" else GPU_FLOOR_FLOPS
    return max(ATTACKS_SHARE * made, floor / max(cost.flops, LEAST_FLOPS))


def require_batch_size(batch_size: object) -> None:
    """Raise `InputError` for a batch size that is neither None nor a whole number of at least 1."""
    if batch_size is not None:
        require_count(batch_size=batch_size)
