"""The smallest eps at which an attack misclassifies each image."""

from __future__ import annotations

import torch
from torch import Tensor

from inoculate.attacks.base import MinimumNorm
from inoculate.attacks.fab import FAB
from inoculate.core.errors import InputError
from inoculate.core.rng import seeded
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.data.load import DataLike
from inoculate.evaluation.engine import Settings, measure_attack, measure_clean
from inoculate.evaluation.inputs import require_finite, require_fitting_mask, resolve_data, resolve_model
from inoculate.evaluation.passes import batch_within_memory, require_batch_size
from inoculate.models.classes import match_classes
from inoculate.models.classifier import Classifier, Precision, prepare
from inoculate.models.loading.load import ModelLike


def minimal_eps(
    model: ModelLike,
    data: DataLike,
    attack: MinimumNorm = FAB(),
    threat: Threat = Threat(eps=1.0),
    *,
    batch_size: int | None = None,
    seed: int = 0,
    precision: Precision = "fast",
) -> Tensor:
    """Find, for every image, the smallest eps at which an attack misclassifies it.

    The accuracy at any eps follows: `(minimal_eps(...) > eps).float().mean()`.

    Args:
        model: as for `evaluate`.
        data: as for `evaluate`.
        attack: one that looks for the nearest adversarial image: `DeepFool`, `CarliniWagner`, `FMN`, `FAB`, in L0
            `SigmaZero` or `FMN`; where the model gives labels only `HopSkipJump` or `RayS`.
        threat: norm, and the largest eps to look at.
        batch_size: images at a time, by default as in `evaluate`.
        seed: of every random draw.
        precision: as in `EvaluationOptions`.

    Returns:
        N floats: 0 for an image that is misclassified clean, infinity where nothing was found within `threat.eps`.

    Raises `InputError` for an attack of another kind.
    """
    require_batch_size(batch_size)
    images = resolve_data(data, model)
    require_fitting_mask(threat, images)
    with seeded(seed, "prepare"):
        classifier = prepare(*match_classes(resolve_model(model, images, "cpu"), images), precision=precision)
    settings = Settings(batch_within_memory(classifier, images, batch_size), seed)
    return smallest_eps(classifier, images, attack, threat, settings)


def smallest_eps(
    classifier: Classifier, data: Dataset, attack: MinimumNorm, threat: Threat, settings: Settings
) -> Tensor:
    """`minimal_eps` of a prepared classifier."""
    if not isinstance(attack, MinimumNorm):
        raise InputError(
            f"{type(attack).__name__} uses up its eps and does not look for the nearest adversarial image: "
            "give FAB, DeepFool, FMN, CarliniWagner or SigmaZero; HopSkipJump and RayS need labels only"
        )
    on_clean = measure_clean(classifier, data, settings)
    require_finite(on_clean, classifier)
    clean = on_clean.right
    (result,) = measure_attack(classifier, data, attack, [threat], clean, settings)  # type: ignore[arg-type]
    reached = torch.where(result.right, torch.inf, result.distance)
    return torch.where(clean, reached, 0.0)
