"""The job `explain`: what a classifier looks at before and after an attack, and how near its errors are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inoculate.attacks.base import Attack
from inoculate.attacks.craft import SCALE
from inoculate.attribution.crafting import Crafting
from inoculate.attribution.explanation import Amounts, Explanation
from inoculate.attribution.fragility import fragility
from inoculate.attribution.maps import grad_cam, integrated_gradients
from inoculate.attribution.stability import attribution_change, stability
from inoculate.core.modes import frozen
from inoculate.core.options import require_count
from inoculate.core.progress import Progress
from inoculate.core.rng import seeded
from inoculate.core.stats import rounded
from inoculate.core.threat import Threat, per_sample
from inoculate.data.dataset import Dataset
from inoculate.data.load import DataLike
from inoculate.evaluation.engine import Settings, measure_clean
from inoculate.evaluation.inputs import name_of_model, require_finite, resolve_attack, resolve_data, resolve_model
from inoculate.models.classes import match_classes
from inoculate.models.classifier import prepare
from inoculate.models.loading.load import ModelLike


@dataclass(frozen=True)
class ExplainOptions:
    """Settings of `explain` that are rarely changed.

    Args:
        seed: of every random draw.
        batch_size: images at a time.
        name, arm: labels; by default the model SPEC, else `model`.
        attack_name: label; by default the attack's registry name.
        shown: numbers of the images to show; by default `explain` chooses.
        device: where a model SPEC is loaded.
    """

    seed: int = 0
    batch_size: int = 128
    name: str | None = None
    arm: str = "standard"
    attack_name: str | None = None
    shown: Sequence[int] | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        require_count(batch_size=self.batch_size)


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
        progress: called as `(what, done, all)`.

    Raises `InputError` for a model without gradients.
    """
    images, (attack_name, attack) = resolve_data(data, model), resolve_attack(attack)
    seed, settings = options.seed, Settings(options.batch_size, options.seed)
    with seeded(seed, "prepare"):
        network, matched = match_classes(resolve_model(model, images, options.device), images)
        classifier = prepare(network, matched)
    earlier = None if before is None else match_classes(resolve_model(before, images, options.device), images)[0]
    images = matched
    first = images.subset(range(min(len(images), 4 * max(amounts.stability, amounts.fragility, 32))))
    clean = measure_clean(classifier, first, settings)
    require_finite(clean, classifier.classes)
    right = clean.right
    rows = choose_images(first, right, amounts.images) if options.shown is None else list(options.shown)
    drawn = right.nonzero().squeeze(1)[: amounts.stability]
    total = len(rows) + len(drawn) + 2
    report = progress or (lambda what, done, total: None)
    with frozen(classifier.model):
        crafting = Crafting(classifier, images, attack, threat, seed)
        shown, arrays = _shown(crafting, torch.tensor(rows, dtype=torch.long), earlier, amounts.steps)
        report("explain", len(rows), total)
        changes = stability(crafting, drawn, amounts.steps, options.batch_size)
        report("explain", total - 2, total)
    facts: dict[str, Any] = {
        "model": options.name or name_of_model(model), "arm": options.arm, "attack": options.attack_name or attack_name,
        "dataset": images.name, "seed": seed, "norm": threat.norm, "eps": threat.eps, "classes": list(images.classes),
        "image_size": list(images.image_size), "images": shown, "steps": amounts.steps, "stability": changes,
        "notes": list(images.notes),
    }  # fmt: skip
    if amounts.fragility:
        part = first.subset(range(min(len(first), amounts.fragility)))
        facts["fragility"] = fragility(classifier, part, threat.norm, amounts.search, settings)
    report("explain", total, total)
    return Explanation(facts, arrays)


def choose_images(data: Dataset, right: Tensor, count: int) -> list[int]:
    """Numbers of up to `count` images that are `right` (N, bool): the first of each class, then a second of each, …"""
    seen: dict[int, int] = {}
    ranked = []
    for row in right.nonzero().squeeze(1).tolist():
        label = int(data.labels[row])
        ranked.append((seen.get(label, 0), row))
        seen[label] = seen.get(label, 0) + 1
    return [row for _, row in sorted(ranked)[:count]]


def _shown(
    crafting: Crafting, rows: Tensor, before: nn.Module | None, steps: int
) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """Facts and arrays of the images that are shown."""
    data, model = crafting.data, crafting.classifier.model
    x, y = crafting.classifier.load(data, rows)
    if not len(rows):
        empty = np.zeros((0, *data.image_size, data.channels), np.uint8)
        return [], {"clean": empty, "perturbation": empty.astype(np.int8)}
    x_adv, _ = crafting.craft(model, x, y)
    predictions = {"clean": _predictions(model, x), "adversarial": _predictions(model, x_adv)}
    if before is not None:
        with frozen(before):
            predictions["replayed"] = _predictions(model, crafting.craft(before, x, y)[0])
    classes = torch.tensor([each["predicted"] for each in predictions["clean"]], device=x.device)
    attributions = [integrated_gradients(model, each, classes, steps) for each in (x, x_adv)]
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
    cams = [grad_cam(model, each, classes) for each in (x, x_adv)]
    if cams[0] is not None and cams[1] is not None:
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
