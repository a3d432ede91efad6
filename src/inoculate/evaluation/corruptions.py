"""The job `corruptions`: accuracy of a classifier under common corruptions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from inoculate.core.progress import Progress
from inoculate.core.rng import seeded
from inoculate.core.row import Row
from inoculate.data.corruptions.corrupt import SEVERITIES, corrupt, corruption_kinds, require_severities
from inoculate.data.load import DataLike
from inoculate.evaluation.engine import measure_clean
from inoculate.evaluation.evaluate import EvaluationOptions
from inoculate.evaluation.natural import Natural
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.result import Evaluation
from inoculate.models.loading.load import ModelLike

NORM, MEAN = "corruption", "mean_corruption"


def corruptions(
    model: ModelLike,
    data: DataLike,
    kinds: str | Sequence[str] = "all",
    severities: Sequence[int] = SEVERITIES,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    options: EvaluationOptions = EvaluationOptions(),
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a classifier on images under common corruptions (see `corrupt`).

    Args:
        model: as for `evaluate`.
        data: as for `evaluate`.
        kinds: `all`, groups (`noise`, `blur`, `weather`, `digital`) or kinds such as `gaussian_noise`.
        severities: whole numbers from 1 to 5.
        batch_size: images at a time, by default as in `evaluate`.
        seed: of every random draw.
        options: as for `evaluate`, of which the label, the matching of classes, precision and device count.
        progress: called as `("corruptions", done, all)` with numbers of corruptions.

    Returns:
        The clean row, then one for each kind and severity: `attack` is the kind, `norm` is `corruption`, `eps` 0, and
        `severity` has its own field. Where there is more than one, the last, `mean_corruption`, is their mean: its
        counts are summed over all of them, and its interval is over images.

    Raises `InputError` for an unknown kind or severity, and for what the model cannot take.
    """
    chosen = [(kind, severity) for kind in corruption_kinds(kinds) for severity in require_severities(severities)]
    natural = Natural.begin(model, data, NORM, batch_size, seed, options)
    images, clean, found = natural.data, natural.clean, dict[Row, PerSampleResult]()
    for place, (kind, severity) in enumerate(chosen):
        corrupted = replace(images, images=corrupt(images.images, kind, severity, seed))
        with seeded(seed, "clean"):
            result = measure_clean(natural.classifier, corrupted, natural.settings)
        found[result.row(**natural.labels, attack=kind, severity=severity)] = result
        if progress:
            progress("corruptions", place + 1, len(chosen))
    if len(chosen) > 1:
        mean = _mean(list(found.values()), natural.labels)
        found[mean] = replace(clean.copy(), finished=torch.zeros_like(clean.finished))
    return natural.evaluation(found)


def _mean(results: Sequence[PerSampleResult], labels: Mapping[str, Any]) -> Row:
    """The mean over corruptions. Those of one image are dependent, so the interval is that of a mean over images."""
    right = torch.stack([result.right for result in results]).double()
    shares = right.mean(dim=0)
    row = Row.measured(
        correct=int(right.sum()), n=right.numel(), seconds=sum(result.seconds for result in results),
        **labels, attack=MEAN, eps=0.0,
    )  # fmt: skip
    half = 1.96 * float(shares.std()) / math.sqrt(len(shares)) if len(shares) > 1 else 1.0
    return replace(row, ci_low=max(0.0, row.accuracy - half), ci_high=min(1.0, row.accuracy + half))
