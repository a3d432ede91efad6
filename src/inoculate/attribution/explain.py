"""Seeing an attack: where a network finds its evidence, how far an attack moves it, and how near its errors are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inoculate.attacks.base import Attack
from inoculate.attacks.craft import SCALE
from inoculate.attacks.fmn import FMN
from inoculate.attacks.gradients import value_and_input_grad
from inoculate.attacks.losses import LOSSES, Objective
from inoculate.attribution.explanation import Amounts, Explained
from inoculate.attribution.maps import grad_cam, integrated_gradients
from inoculate.core.modes import frozen
from inoculate.core.rng import Draws, generator
from inoculate.core.stats import spearman
from inoculate.core.threat import Norm, Threat, dual_norm, per_sample, project, range_diameter, steepest_direction
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import Progress, judge_clean
from inoculate.evaluation.evaluate import minimal_eps
from inoculate.evaluation.per_sample import loader
from inoculate.models.acceleration.fast import original

MEASURE = "1 − Spearman's rank correlation of |integrated gradients| per pixel, clean against adversarial"


def explain(
    model: nn.Module,
    split: Dataset,
    attack: Attack,
    threat: Threat,
    amounts: Amounts | None = None,
    *,
    shown: Sequence[int] | None = None,
    before: nn.Module | None = None,
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
    name: str = "model",
    arm: str = "standard",
    attack_name: str | None = None,
) -> Explained:
    """Explain a classifier (float images in [0, 1] → logits) on the images of a split, attacked at one threat.

    For the images `shown` (by default `choose`): predictions, integrated gradients (Sundararajan et al. 2017, from
    black) and Grad-CAM (Selvaraju et al. 2017) on the clean and on the adversarial image, for the class given to the
    clean one. Given the network `before` its hardening, also what this one says to the images crafted on that one.
    For more images: the drift of the integrated gradients, and `fragility`. `name`, `arm` and `attack_name` label it.
    Raises `InputError` for a model without gradients.
    """
    amounts = amounts or Amounts()
    model = original(model)
    first = split.subset(range(min(len(split), 4 * max(amounts.drift, amounts.fragility, 32))))
    right = judge_clean(model, first, batch_size).right
    rows = choose(first, right, amounts.images) if shown is None else list(shown)
    drawn = right.nonzero().squeeze(1)[: amounts.drift]
    total = len(rows) + len(drawn) + 2
    with frozen(model):
        places = torch.tensor(rows, dtype=torch.long)
        images, arrays = _shown(model, split, places, attack, threat, amounts.steps, before, seed)
        if progress:
            progress(len(rows), total)
        drifts = _drift(model, first, drawn, attack, threat, amounts.steps, batch_size, seed)
        if progress:
            progress(total - 2, total)
    facts: dict[str, Any] = {
        "model": name, "arm": arm, "attack": attack_name or type(attack).__name__.lower(),
        "dataset": split.name, "seed": seed, "norm": threat.norm, "eps": threat.eps, "classes": list(split.classes),
        "image_size": list(split.image_size), "images": images, "steps": amounts.steps,
        "drift": {"measure": MEASURE, **drifts},
    }  # fmt: skip
    if amounts.fragility:
        part = first.subset(range(min(len(first), amounts.fragility)))
        facts["fragility"] = fragility(model, part, threat.norm, amounts.search, batch_size=batch_size, seed=seed)
    if progress:
        progress(total, total)
    return Explained(facts, arrays)


def choose(split: Dataset, right: Tensor, count: int) -> list[int]:
    """The first images that are `right` (N, bool), one of each class, then a second of each, up to `count`."""
    seen: dict[int, int] = {}
    ranked = []
    for row in right.nonzero().squeeze(1).tolist():
        label = int(split.labels[row])
        ranked.append((seen.get(label, 0), row))
        seen[label] = seen.get(label, 0) + 1
    return [row for _, row in sorted(ranked)[:count]]


def fragility(
    model: nn.Module, split: Dataset, norm: Norm = "linf", search: int = 30, *, batch_size: int = 128, seed: int = 0
) -> dict[str, list[float | None]]:
    """How near to an error each image is, as lists with one number per image.

    `margin`: the logit of its class minus the best other one. `gradient`: by how much a step of size 1 in `norm` can
    change the margin (the dual norm of its gradient). `estimate`: margin / gradient, the first-order distance to the
    boundary. `measured`: the smallest eps at which FMN with `search` steps broke it (0 if wrong as it is, None if
    never).
    """
    margins, gradients = [], []
    with frozen(model):
        load = loader(model, split)
        for rows in torch.split(torch.arange(len(split)), batch_size):
            x, y = load(rows)
            passed = value_and_input_grad(model, x, Objective(LOSSES["margin"], y))
            margins.append(-passed.values.float().cpu())
            gradients.append(dual_norm(passed.gradient, norm).float().cpu())
    margin, gradient = torch.cat(margins), torch.cat(gradients)
    reach = range_diameter(Threat(norm), split.images[0].numel())
    measured = minimal_eps(model, split, norm, FMN(steps=search), eps=reach, batch_size=batch_size, seed=seed)
    found = {"margin": margin, "gradient": gradient, "estimate": margin / gradient, "measured": measured}
    return {name: [_number(value) for value in values.tolist()] for name, values in found.items()}


def _shown(
    model: nn.Module,
    split: Dataset,
    rows: Tensor,
    attack: Attack,
    threat: Threat,
    steps: int,
    before: nn.Module | None,
    seed: int,
) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """Facts and arrays of the shown images."""
    x, y = loader(model, split)(rows)
    if not len(rows):
        empty = np.zeros((0, *split.image_size, split.channels), np.uint8)
        return [], {"clean": empty, "perturbation": empty.astype(np.int8)}
    draw = generator(seed, "explain", device=x.device)
    x_adv = attack(model, x, y, threat, generator=draw)
    said = {"clean": _verdicts(model, x), "adversarial": _verdicts(model, x_adv)}
    if before is not None:
        with frozen(before):
            draw = generator(seed, "explain", device=x.device)
            said["replayed"] = _verdicts(model, attack(before, x, y, threat, generator=draw))
    classes = torch.tensor([verdict["predicted"] for verdict in said["clean"]], device=x.device)
    pair = [integrated_gradients(model, each, classes, steps) for each in (x, x_adv)]
    drift = _apart(*pair)
    images = [
        {"row": int(row), "label": int(y[i]), "scale": 0.0, "drift": drift[i]} | {k: v[i] for k, v in said.items()}
        for i, row in enumerate(rows.tolist())
    ]
    moved = (x_adv - x).permute(0, 2, 3, 1).cpu()
    scales = moved.flatten(1).abs().amax(dim=1).clamp_min(1e-12)
    for image, scale in zip(images, scales.tolist(), strict=True):
        image["scale"] = scale
    arrays = {
        "clean": split.images[rows].permute(0, 2, 3, 1).numpy(),
        "perturbation": (moved / per_sample(scales, moved) * SCALE).round().to(torch.int8).numpy(),
        "gradients": _compact(torch.stack(pair, dim=1), SCALE, np.int8),
    }
    focus = [grad_cam(model, each, classes) for each in (x, x_adv)]
    if focus[0] is not None and focus[1] is not None:
        arrays["focus"] = _compact(torch.stack([focus[0], focus[1]], dim=1), 255, np.uint8)
    return images, arrays


def _drift(
    model: nn.Module,
    split: Dataset,
    rows: Tensor,
    attack: Attack,
    threat: Threat,
    steps: int,
    batch_size: int,
    seed: int,
) -> dict[str, list[Any]]:
    """The drift of each of these images under the attack, and under random noise of the same size."""
    found: dict[str, list[Any]] = {"attack": [], "noise": [], "fooled": []}
    load = loader(model, split)
    for some in torch.split(rows, max(1, batch_size // steps)):
        x, y = load(some)
        draw = generator(seed, "explain", device=x.device)
        x_adv = attack(model, x, y, threat, generator=draw)
        way = steepest_direction(Draws(x, draw).normal(*x.shape[1:]), threat.norm)
        noisy = project(x + threat.eps * way, x, threat)
        clean = integrated_gradients(model, x, y, steps)
        found["attack"] += _apart(clean, integrated_gradients(model, x_adv, y, steps))
        found["noise"] += _apart(clean, integrated_gradients(model, noisy, y, steps))
        with torch.no_grad():
            found["fooled"] += (model(x_adv).argmax(dim=1) != y).tolist()
    return found


def _apart(one: Tensor, other: Tensor) -> list[float | None]:
    """1 − rank correlation of the absolute values, per image; None where nothing can be ranked."""
    maps = [each.abs().flatten(1).cpu().numpy() for each in (one, other)]
    return [_number(1 - value) for value in spearman(*maps).tolist()]


def _verdicts(model: nn.Module, x: Tensor) -> list[dict[str, Any]]:
    with torch.no_grad():
        confidence, predicted = model(x).float().softmax(dim=1).max(dim=1)
    return [{"predicted": int(p), "confidence": _number(float(c))} for p, c in zip(predicted, confidence, strict=True)]


def _compact(pairs: Tensor, top: int, kind: Any) -> NDArray[Any]:
    """N×2×H×W as small integers; the two maps of an image share their scale, so that they can be compared."""
    scale = pairs.flatten(1).abs().amax(dim=1).clamp_min(1e-12)
    return (pairs / per_sample(scale, pairs) * top).round().cpu().numpy().astype(kind)


def _number(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None
