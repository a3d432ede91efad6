"""The job `explain`: what a classifier looks at before and after an attack, and how near its errors are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inoculate.attacks.base import Attack, MultiStep
from inoculate.attacks.craft import SCALE
from inoculate.attribution.crafting import Crafting
from inoculate.attribution.explanation import Amounts, Explanation
from inoculate.attribution.features import last_maps
from inoculate.attribution.fragility import fragility
from inoculate.attribution.maps import grad_cam_on, integrated_gradients
from inoculate.attribution.stability import attribution_change, stability
from inoculate.core.errors import InputError
from inoculate.core.modes import frozen
from inoculate.core.progress import Progress
from inoculate.core.rng import seeded
from inoculate.core.stats import rounded
from inoculate.core.threat import Threat, per_sample
from inoculate.data.dataset import Dataset
from inoculate.data.load import DataLike
from inoculate.evaluation.engine import Settings, measure_clean
from inoculate.evaluation.inputs import (
    name_of_model,
    require_finite,
    require_fitting_mask,
    resolve_attack,
    resolve_data,
    resolve_model,
)
from inoculate.evaluation.passes import GRADIENT, batch_within_memory, counted, require_batch_size
from inoculate.evaluation.result import Evaluation
from inoculate.models.classes import match_classes
from inoculate.models.classifier import Classifier, prepare
from inoculate.models.loading.load import ModelLike

Facts: TypeAlias = dict[str, Any]
Arrays: TypeAlias = dict[str, NDArray[Any]]
NO_GRAD_CAM = (
    "Grad-CAM is left out: the network's last features do not say where in the image they lie (they are no maps of at "
    "least 4×4, and no tokens on a known grid)"
)


@dataclass(frozen=True)
class ExplainOptions:
    """Settings of `explain` that are rarely changed.

    Args:
        seed: of every random draw.
        batch_size: images at a time, at most; fewer where they would need more than about 1 GiB.
        name, arm: labels; by default the model SPEC, else `model`.
        attack_name: label; by default the attack's registry name.
        shown: numbers of the images to show; by default `explain` chooses.
        evaluation: what `evaluate` found for the same model and images. Its clean result is taken over, and the amounts
            are reduced to its `spare_passes`.
        device: where a model SPEC is loaded.
    """

    seed: int = 0
    batch_size: int | None = None
    name: str | None = None
    arm: str = "standard"
    attack_name: str | None = None
    shown: Sequence[int] | None = None
    evaluation: Evaluation | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        require_batch_size(self.batch_size)


def explain(
    model: ModelLike,
    data: DataLike,
    attack: str | Attack = "pgd",
    threat: Threat = Threat(),
    *,
    amounts: Amounts = Amounts(),
    before: ModelLike | None = None,
    options: ExplainOptions = ExplainOptions(),
    progress: Progress | None = None,
) -> Explanation:
    """Explain a classifier on images attacked at one threat.

    For the images shown: predictions, integrated gradients (Sundararajan et al. 2017, from black) and Grad-CAM
    (Selvaraju et al. 2017) on the clean and on the adversarial image, for the class predicted on the clean one. For
    more images: attribution stability, and the smallest eps that breaks them.

    Args:
        model: as for `evaluate`.
        data: as for `evaluate`.
        attack: a name or an attack object.
        threat: norm and size.
        amounts: how many images, and how thoroughly.
        before: the network before its hardening: what it predicts on images crafted on it is shown beside.
        options: everything else.
        progress: called as `("explain", passes done, all)`.

    Raises `InputError` for a model without gradients.
    """
    images, (attack_name, attack) = resolve_data(data, model), resolve_attack(attack)
    seed, known = options.seed, options.evaluation
    amounts = amounts if known is None else amounts.within(known.spare_passes)
    with seeded(seed, "prepare"):
        network, matched = match_classes(resolve_model(model, images, options.device), images)
        classifier = prepare(network, matched)
    if classifier.labels_only:
        raise InputError("the model gives labels only, and an explanation needs its gradient")
    earlier = None if before is None else match_classes(resolve_model(before, images, options.device), images)[0]
    images, fitting = matched, batch_within_memory(classifier, matched)
    require_fitting_mask(threat, images)
    settings = Settings(min(options.batch_size or fitting, fitting), seed)
    chosen = _choose(classifier, images, amounts, options, settings)
    report = progress or (lambda what, done, total: None)
    total = chosen.passes(amounts, attack)
    with counted(classifier, observer=lambda made: report("explain", min(int(made), total - 1), total)):
        crafting = Crafting(classifier, images, attack, threat, seed)
        found, arrays = _explained(crafting, chosen, earlier, amounts, settings)
    report("explain", total, total)
    facts: dict[str, Any] = {
        "model": options.name or name_of_model(model), "arm": options.arm, "attack": options.attack_name or attack_name,
        "dataset": images.name, "seed": seed, "norm": threat.norm, "eps": threat.eps, "classes": list(images.classes),
        "image_size": list(images.image_size), **found, "notes": [*images.notes, *found["notes"]],
    }  # fmt: skip
    facts |= {} if threat.mask is None else {"mask": threat.mask.name}
    return Explanation(facts, arrays)


@dataclass(frozen=True, eq=False)
class _Chosen:
    """Numbers of the images to show and of those whose stability is measured, and the images to break."""

    shown: list[int]
    stability: Tensor
    fragility: Dataset

    def passes(self, amounts: Amounts, attack: Attack) -> int:
        """How many forward passes the explanation makes, as far as the attack tells: for the progress."""
        own = replace(amounts, images=len(self.shown), stability=len(self.stability), fragility=len(self.fragility))
        return max(1, int(own.passes(GRADIENT * (attack.steps if isinstance(attack, MultiStep) else 1))))


def _choose(
    classifier: Classifier, data: Dataset, amounts: Amounts, options: ExplainOptions, settings: Settings
) -> _Chosen:
    first = data.subset(range(min(len(data), 4 * max(amounts.stability, amounts.fragility, 32))))
    known = options.evaluation
    clean = measure_clean(classifier, first, settings) if known is None else known.per_image[known[0]]
    require_finite(clean, classifier)
    right = clean.right[: len(first)]
    shown = choose_images(first, right, amounts.images) if options.shown is None else list(options.shown)
    part = first.subset(range(min(len(first), amounts.fragility)))
    return _Chosen(shown, right.nonzero().squeeze(1)[: amounts.stability], part)


def _explained(
    crafting: Crafting, chosen: _Chosen, before: nn.Module | None, amounts: Amounts, settings: Settings
) -> tuple[Facts, Arrays]:
    """All that is measured, as facts, and the arrays of the images shown."""
    steps, batch_size = amounts.steps, settings.batch_size
    with frozen(crafting.classifier.model):
        batches = torch.split(torch.tensor(chosen.shown, dtype=torch.long), batch_size)
        images, arrays = _joined([_shown(crafting, some, before, steps, batch_size) for some in batches])
        found: Facts = {
            "images": images,
            "steps": steps,
            "stability": stability(crafting, chosen.stability, steps, batch_size),
        }
    found["notes"] = [NO_GRAD_CAM] if images and "grad_cam" not in arrays else []
    if len(chosen.fragility):
        threat = crafting.threat.select(range(len(chosen.fragility)))
        found["fragility"] = fragility(
            crafting.classifier, chosen.fragility, threat.norm, amounts.search, settings, threat.mask
        )
    return found, arrays


def choose_images(data: Dataset, right: Tensor, count: int) -> list[int]:
    """Numbers of up to `count` images that are `right` (N, bool): the first of each class, then a second of each, …"""
    seen: dict[int, int] = {}
    ranked = []
    for row in right.nonzero().squeeze(1).tolist():
        label = int(data.labels[row])
        ranked.append((seen.get(label, 0), row))
        seen[label] = seen.get(label, 0) + 1
    return [row for _, row in sorted(ranked)[:count]]


def _joined(parts: Sequence[tuple[list[Facts], Arrays]]) -> tuple[list[Facts], Arrays]:
    """Facts and arrays of several batches as one."""
    names = parts[0][1]
    return [image for images, _ in parts for image in images], {
        name: np.concatenate([arrays[name] for _, arrays in parts]) for name in names
    }


def _shown(
    crafting: Crafting, rows: Tensor, before: nn.Module | None, steps: int, batch_size: int
) -> tuple[list[Facts], Arrays]:
    """Facts and arrays of the images that are shown."""
    data, model = crafting.data, crafting.classifier.model
    x, y = crafting.classifier.load(data, rows)
    if not len(rows):
        empty = np.zeros((0, *data.image_size, data.channels), np.uint8)
        return [], {"clean": empty, "perturbation": empty.astype(np.int8)}
    x_adv, _ = crafting.craft(model, x, y, rows)
    predictions = {"clean": _predictions(model, x), "adversarial": _predictions(model, x_adv)}
    if before is not None:
        with frozen(before):
            predictions["replayed"] = _predictions(model, crafting.craft(before, x, y, rows)[0])
    classes = torch.tensor([each["predicted"] for each in predictions["clean"]], device=x.device)
    attributions = [integrated_gradients(model, each, classes, steps, batch_size) for each in (x, x_adv)]
    change = attribution_change(*attributions)
    moved = (x_adv - x).permute(0, 2, 3, 1).cpu()
    scales = moved.flatten(1).abs().amax(dim=1).clamp_min(1e-12)
    images = [
        {"row": row, "label": int(y[i]), "scale": float(scales[i]), "change": change[i]}
        | {name: each[i] for name, each in predictions.items()}
        for i, row in enumerate(rows.tolist())
    ]
    arrays = {
        "clean": data.images[rows].permute(0, 2, 3, 1).numpy(),
        "perturbation": (moved / per_sample(scales, moved) * SCALE).round().to(torch.int8).numpy(),
        "attribution": _as_integers(torch.stack(attributions, dim=1), SCALE, np.int8),
    }
    maps = last_maps(model, x[:1])
    if maps is not None:
        cams = [grad_cam_on(maps, model, each, classes) for each in (x, x_adv)]
        arrays["grad_cam"] = _as_integers(torch.stack([cams[0], cams[1]], dim=1), 255, np.uint8)
    return images, arrays


def _predictions(model: nn.Module, x: Tensor) -> list[dict[str, Any]]:
    with torch.no_grad():
        confidence, predicted = model(x).float().softmax(dim=1).max(dim=1)
    return [{"predicted": int(p), "confidence": rounded(float(c))} for p, c in zip(predicted, confidence, strict=True)]


def _as_integers(pairs: Tensor, top: int, kind: Any) -> NDArray[Any]:
    """N×2×H×W as small integers; the two maps of an image share their scale, so that they can be compared."""
    scale = pairs.flatten(1).abs().amax(dim=1).clamp_min(1e-12)
    found: NDArray[Any] = (pairs / per_sample(scale, pairs) * top).round().cpu().float().numpy().astype(kind)
    return found
