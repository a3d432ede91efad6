"""What tells one model from another: its weights, its structure, its code, and what it answers."""

from __future__ import annotations

import hashlib
import inspect
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.models.classifier import Classifier
from inoculate.models.findings import differ

PROBES = 2  # images
_VERSIONED = ("torch", "torchvision", "timm", "transformers", "inoculate", "onnxruntime", "builtins")


def identity(classifier: Classifier) -> dict[str, Any]:
    """What decides the outputs of a classifier and what is crafted on it, as JSON values.

    It tells apart other weights, layers, options of layers, and other code of the user's own classes. What a function
    holds in its closure it does not see: compare `answers` as well.
    """
    model, classes = classifier.model, sorted({type(module) for module in classifier.model.modules()}, key=str)
    return {
        "state": weights_digest(model),
        "structure": hashlib.sha256(str(model).encode()).hexdigest()[:20],
        "code": {f"{each.__module__}.{each.__qualname__}": source_digest(each) for each in classes},
        "precision": classifier.precision if classifier.crafting is not model else "exact",
        "dtype": str(classifier.dtype),
        "passes": classifier.passes,
        "labels_only": classifier.labels_only,
        "classes": classifier.classes,
    }


def answers(classifier: Classifier, shape: tuple[int, ...]) -> Tensor:
    """The outputs (float64) for some images of noise, C×H×W; empty for a random model, which answers anew each time."""
    if classifier.is_random:
        return torch.zeros(0, dtype=torch.float64)
    noise = torch.rand(PROBES, *shape, generator=torch.Generator().manual_seed(0))
    x = classifier.placed(noise)
    with classifier.ready():
        y = torch.zeros(PROBES, dtype=torch.long, device=classifier.device)
        found = classifier.predict(x, y).predicted if classifier.labels_only else classifier.logits(x, y)
    return found.detach().cpu().double()


def same_answers(one: Tensor, other: Tensor) -> bool:
    """Whether two results of `answers` are equal up to rounding, which differs between machines."""
    if one.shape != other.shape:
        return False
    return not len(one) or torch.equal(one, other) or not differ(one, other)


def source_digest(kind: type) -> str:
    """12 hex digits of the source of a class, empty where there is none or the version of a library stands for it."""
    if kind.__module__.partition(".")[0] in _VERSIONED:
        return ""
    try:
        return hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()[:12]
    except (OSError, TypeError):
        return ""


def weights_digest(model: nn.Module) -> str | None:
    """A hex digest of the names and values of all parameters and buffers; None where there are none."""
    hasher, values = blake2b(digest_size=16), model.state_dict()
    tensors = {name: value for name, value in sorted(values.items()) if isinstance(value, Tensor)}
    for name, value in tensors.items():
        value = value.int_repr() if value.is_quantized else value
        hasher.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        hasher.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest() if tensors else None
