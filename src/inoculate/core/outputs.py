"""The logits, or the labels, in what a model returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

KEYS = ("logits", "out")  # the entry of a mapping that holds the logits
DESCRIBED = 4  # tensors


@runtime_checkable
class _HasLogits(Protocol):
    logits: Any


def logits_of(output: Any) -> Any:
    """The logits in what a model returned: a tensor itself, or what `place_of_logits` names.

    An array or list of whole numbers becomes a tensor. Anything else is returned as it is.
    """
    found = output
    while not isinstance(found, Tensor):
        if (tensor := _as_tensor(found)) is not None:
            return tensor
        entry = _entry(found)
        if entry is None:
            return output
        found = entry[1]
    return found


def labels_in(output: Any, n: int) -> Tensor | None:
    """The labels (B, int64) of `n` images, where a model returned them and nothing else; None for any other output.

    Whole numbers or truth values, B or B×1. Floats are never taken for labels.
    """
    found = logits_of(output)
    if not isinstance(found, Tensor) or found.is_floating_point() or found.is_complex() or found.shape[:1] != (n,):
        return None
    return found.long().flatten() if found.shape[1:] in ((), (1,)) else None


def place_of_logits(output: Any) -> str:
    """Where `logits_of` finds the logits in an output that is not a tensor, as Python writes it: `output['logits']`.

    The entry or attribute `logits`, the entry `out`, or the first of a tuple or list that is not None; in what lies
    there again.
    """
    place, found = "output", output
    while not isinstance(found, Tensor) and (entry := _entry(found)) is not None:
        place, found = place + entry[0], entry[1]
    return place


def describe_output(output: Any, n: int) -> str:
    """The shapes of the tensors in an output for `n` images: ` (output['scores'] is B×10)`; empty without any."""
    found = list(_tensors(output, "output"))
    shapes = [
        f"{place} is {'×'.join(('B' if tensor.shape[0] == n else str(tensor.shape[0]), *map(str, tensor.shape[1:])))}"
        if tensor.ndim
        else f"{place} is a single number"
        for place, tensor in found[:DESCRIBED]
    ]
    return f" ({', '.join(shapes)}{', …' if len(found) > DESCRIBED else ''})" if found else ""


def _as_tensor(value: Any) -> Tensor | None:
    """An array, list or tuple of whole numbers as a tensor; None for anything else."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biu":
        return torch.from_numpy(np.ascontiguousarray(value, np.int64))  # torch knows few unsigned types
    if isinstance(value, list | tuple) and value and all(isinstance(each, int | np.integer) for each in value):
        return torch.tensor([int(each) for each in value])
    return None


def _entry(output: Any) -> tuple[str, Any] | None:
    """The entry of a container that holds the logits: how to reach it, and what is there; None for anything else."""
    if isinstance(output, Mapping):
        return next(((f"['{key}']", output[key]) for key in KEYS if output.get(key) is not None), None)
    if isinstance(output, _HasLogits) and output.logits is not None:
        return ".logits", output.logits
    if isinstance(output, tuple | list):
        return next(((f"[{place}]", each) for place, each in enumerate(output) if each is not None), None)
    return None


def _tensors(output: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in an output, and how to reach each."""
    if isinstance(output, Tensor):
        yield place, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from _tensors(value, f"{place}[{key!r}]")
    elif isinstance(output, tuple | list):
        for number, value in enumerate(output):
            yield from _tensors(value, f"{place}[{number}]")
