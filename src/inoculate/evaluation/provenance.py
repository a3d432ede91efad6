"""What the numbers of an evaluation were made from, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from inoculate.artifacts.specs import described
from inoculate.artifacts.versions import versions
from inoculate.attacks.base import Attack
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.models.classifier import Classifier
from inoculate.models.identity import weights_digest


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


def facts_of(data: Dataset) -> dict[str, Any]:
    """What an `Evaluation` holds about its images."""
    return {
        "labels": data.labels, "classes": data.classes, "notes": data.notes, "sources": tuple(data.source_names()),
        "identities": image_identities(data),
    }  # fmt: skip


def image_identities(data: Dataset) -> tuple[str, ...]:
    """A digest (16 hex digits) of each image: its shape and pixels."""
    shape = str(tuple(data.images.shape[1:])).encode()
    return tuple(
        blake2b(image.cpu().contiguous().numpy().tobytes(), digest_size=8, key=shape).hexdigest()
        for image in data.images
    )
