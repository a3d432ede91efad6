"""Statistics of the margins, gradients and smallest eps that an explanation holds for each image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inoculate.attribution.explanation import Explanation
from inoculate.core.stats import spearman

Fragility = Mapping[str, Sequence[float | None]]


def fragility_of(explained: Explanation) -> Fragility | None:
    """The per-image values of an explanation, by kind; None where they were not measured."""
    found: Fragility | None = explained.facts.get("fragility")
    return found


def known(values: Iterable[float | None]) -> NDArray[np.float64]:
    """The values that are known."""
    return np.array([value for value in values if value is not None], dtype=np.float64)


def of_correct_images(fragility: Fragility, kind: str) -> NDArray[np.float64]:
    """The known values of images that are classified correctly without an attack."""
    pairs = zip(fragility[kind], fragility["margin"], strict=True)
    return known(value for value, margin in pairs if margin is not None and margin > 0)


def median(fragility: Fragility, kind: str) -> float:
    """Median over correctly classified images; one that no attack broke counts as infinite. NaN without images."""
    values = list(of_correct_images(fragility, kind))
    never = sum(margin is not None and margin > 0 for margin in fragility["margin"]) - len(values)
    values += [float("inf")] * never
    return float(np.quantile(values, 0.5, method="lower")) if values else float("nan")


def estimated_and_measured(fragility: Fragility) -> NDArray[np.float64]:
    """The (estimated, measured) eps of images that were classified correctly and broke: N×2."""
    pairs = zip(fragility["estimate"], fragility["measured"], strict=True)
    return np.array([(e, m) for e, m in pairs if e and m and e > 0 and m > 0], dtype=np.float64).reshape(-1, 2)


def agreement(fragility: Fragility) -> float:
    """Spearman's rank correlation of estimated and measured eps over images; NaN for fewer than three."""
    pairs = estimated_and_measured(fragility)
    return float(spearman(pairs[:, :1].T, pairs[:, 1:].T)[0]) if len(pairs) > 2 else float("nan")


def by_model(explanations: Iterable[Explanation]) -> dict[str, dict[str, Explanation]]:
    """The explanations of one dataset: per network, its arms."""
    found: dict[str, dict[str, Explanation]] = {}
    for each in explanations:
        found.setdefault(each.key[1], {})[each.key[2]] = each
    return found


def share_correct(measured: Sequence[float | None], eps: float) -> Any:
    """The share of images that an attack of size `eps` does not break."""
    return 1 - np.mean([each is not None and each <= eps for each in measured])
