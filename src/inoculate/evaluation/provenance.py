"""What the numbers of an evaluation were made from, as JSON values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.artifacts.versions import versions
from inoculate.attacks.base import Attack
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.models.classifier import Classifier


def provenance_of(
    classifier: Classifier,
    data: Dataset,
    attacks: Mapping[str, Attack] | None = None,
    threats: Sequence[Threat] = (),
    time_budget: float | str | None = None,
) -> dict[str, Any]:
    """Data, weights, threats, every option of every attack, and the versions of the software."""
    height, width = data.image_size
    return {
        "data": {"name": data.name, "digest": data.digest, "n": len(data), "classes": list(data.classes),
                 "image": [data.channels, height, width]},
        "model": {"digest": weights_digest(classifier.model), "random": classifier.is_random,
                  "labels_only": classifier.labels_only, "black_box": classifier.is_black_box},
        "attacks": {name: described(attack) for name, attack in (attacks or {}).items()},
        "threats": [threat.as_dict() for threat in threats],
        "precision": classifier.precision,
        "time_budget": time_budget,
        "versions": versions(),
    }  # fmt: skip


def image_identities(data: Dataset) -> tuple[str, ...]:
    """A digest (16 hex digits) of each image: its shape and pixels."""
    shape = str(tuple(data.images.shape[1:])).encode()
    return tuple(
        blake2b(image.cpu().contiguous().numpy().tobytes(), digest_size=8, key=shape).hexdigest()
        for image in data.images
    )


def weights_digest(model: nn.Module) -> str | None:
    """A hex digest of the names and values of all parameters and buffers; None where there are none."""
    hasher, values = blake2b(digest_size=16), model.state_dict()
    tensors = {name: value for name, value in sorted(values.items()) if isinstance(value, Tensor)}
    for name, value in tensors.items():
        value = value.int_repr() if value.is_quantized else value
        hasher.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        hasher.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest() if tensors else None


def described(value: Any) -> Any:
    """An attack or an option of one as JSON values: dataclasses with all fields, functions and others by name."""
    if is_dataclass(value) and not isinstance(value, type):
        options = {field.name: described(getattr(value, field.name)) for field in fields(value)}
        return {"class": type(value).__name__, **options}
    if isinstance(value, Mapping):
        return {str(name): described(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [described(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(getattr(value, "__qualname__", type(value).__name__))
