"""Confidence intervals and paired tests for accuracies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
Outcomes = NDArray[Any] | Sequence[NDArray[Any]]
RESAMPLES = 2000


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval (low, high) of the proportion `correct / n`, both in [0, 1].

    Raises `ValueError` unless 0 <= correct <= n and n > 0. Source: Wilson (1927), JASA 22, 209–212.
    """
    if n <= 0 or not 0 <= correct <= n:
        raise ValueError(f"an interval needs 0 <= correct <= n and n > 0, got correct={correct}, n={n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == n else min(1.0, centre + half)
    return low, high


def proportion_upper(count: int, n: int, confidence: float = 0.95) -> float:
    """Return the one-sided upper bound of a proportion in [0, 1] of which `count` of `n` random draws are known.

    Raises `ValueError` unless 0 <= count <= n. Source: Clopper and Pearson (1934), Biometrika 26, 404–413.
    """
    if not 0 <= count <= n:
        raise ValueError(f"a bound needs 0 <= count <= n, got count={count}, n={n}")
    if count == n:
        return 1.0
    from scipy.special import betaincinv

    return float(betaincinv(count + 1, n - count, confidence))


def proportion_lower(count: int, n: int, confidence: float = 0.95) -> float:
    """Return the one-sided lower bound of a proportion in [0, 1] of which `count` of `n` random draws are known.

    Raises `ValueError` unless 0 <= count <= n. Source: Clopper and Pearson (1934), Biometrika 26, 404–413.
    """
    return 1 - proportion_upper(n - count, n, confidence)


def exceeds_rate(count: int, n: int, rate: float) -> float:
    """Return the one-sided p-value of the exact binomial test that `count` of `n` come from more than `rate`."""
    if not count:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(count, n, rate, alternative="greater").pvalue)


def mcnemar(
    before: NDArray[Any], after: NDArray[Any], alternative: Literal["two-sided", "greater", "less"] = "two-sided"
) -> float:
    """Return the p-value of McNemar's exact test on two paired bool arrays.

    The null hypothesis: images change from wrong to right as often as from right to wrong. The alternative `greater`:
    more often.
    Both have shape (images,). Raises `ValueError` when the shapes differ. Source: McNemar (1947), exact binomial form.
    """
    before, after = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    if before.shape != after.shape:
        raise ValueError(f"paired outcomes need one shape, got {before.shape} and {after.shape}")
    gained, lost = int((~before & after).sum()), int((before & ~after).sum())
    if gained + lost == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost, 0.5, alternative).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, in the same order. Source: Holm (1979), Scand. J. Stat. 6, 65–70."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def paired_difference(
    before: NDArray[Any], after: NDArray[Any], confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return (after - before, low, high) in [-1, 1] of two proportions over the same images, by the score interval.

    Both have shape (images,). Unlike a bootstrap it has a width where no image changes. Raises `ValueError` when the
    shapes differ or are empty. Source: Newcombe (1998), Statistics in Medicine 17, 2635–2650, method 10.
    """
    before, after = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    if before.shape != after.shape or not before.size:
        raise ValueError(f"paired outcomes need one shape and an image, got {before.shape} and {after.shape}")
    n, first, second = before.size, int(before.sum()), int(after.sum())
    both = int((before & after).sum())
    neither, gained, lost = n - first - second + both, second - both, first - both
    spread = first * (n - first) * second * (n - second)
    phi = (both * neither - gained * lost) / math.sqrt(spread) if spread else 0.0
    (low1, high1), (low2, high2) = wilson(first, n, confidence), wilson(second, n, confidence)
    one, two = first / n, second / n

    def half(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    difference = (second - first) / n
    low, high = difference - half(two - low2, high1 - one), difference + half(one - low1, high2 - two)
    return difference, max(-1.0, low), min(1.0, high)


def paired_gain(
    before: Outcomes, after: Outcomes, confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """Return (mean difference after - before, low, high) in [-1, 1], by a seeded bootstrap over images.

    Images are resampled, not single outcomes: those of one image under several networks, eps and seeds are dependent.

    `before` and `after` are images × cells arrays of bools, or lists with one bool array per cell; of arrays of
    different lengths the common prefix of images is used. Raises `ValueError` when the numbers of cells differ.
    """
    left, right = _columns(before), _columns(after)
    if len(left) != len(right) or not left:
        raise ValueError(f"paired outcomes need the same number of cells, got {len(left)} and {len(right)}")
    n = min(len(column) for column in left + right)
    if n == 0:
        raise ValueError("paired outcomes need at least one image")
    differences = np.zeros(n, dtype=np.int64)
    for one, other in zip(left, right, strict=True):
        differences += other[:n].astype(np.int64) - one[:n]
    # Resampling n images with replacement is one multinomial draw over their few distinct differences.
    values, counts = np.unique(differences, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples) @ values / (n * len(left))
    low, high = np.quantile(draws, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(differences.sum()) / (n * len(left)), float(low), float(high)


def unpaired_gain(before: float, after: float, n: int, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return (after - before, low, high) for two proportions in [0, 1] of `n` images each, by the normal interval.

    For use without per-image outcomes. For means over cells, `n` stays the number of images: cells share them.
    """
    if n <= 0:
        raise ValueError(f"an interval needs n > 0, got n={n}")
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt((before * (1 - before) + after * (1 - after)) / n)
    return after - before, after - before - half, after - before + half


def seeds_margin(effects: Sequence[float], confidence: float = 0.95) -> float:
    """Half the width of the t-interval of a mean over two or more trainings with different seeds (Student 1908)."""
    from scipy.special import stdtrit

    deviation = float(np.std(effects, ddof=1)) / math.sqrt(len(effects))
    return float(stdtrit(len(effects) - 1, 0.5 + confidence / 2)) * deviation


def spearman(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Return Spearman's rank correlation in [-1, 1] of each row of two N×P arrays; NaN where a row is constant.

    Source: Spearman (1904); equal values share the mean of their ranks.
    """
    left, right = (np.stack([_ranks(row) for row in np.asarray(values)]) for values in (one, other))
    left, right = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (left, right))
    size = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    with np.errstate(invalid="ignore"):
        correlation: NDArray[np.float64] = np.where(size > 0, (left * right).sum(axis=1) / size, np.nan)
    return correlation


def rounded(value: float) -> float | None:
    """A number for JSON: to six places, None for NaN and infinity."""
    return round(value, 6) if math.isfinite(value) else None


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Ranks from 1, mean ranks for ties. Not scipy.stats, whose import takes longer than writing a report."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def _columns(outcomes: Outcomes) -> list[BoolArray]:
    if isinstance(outcomes, np.ndarray):
        table = outcomes[:, None] if outcomes.ndim == 1 else outcomes
        return [np.asarray(column, dtype=bool) for column in table.T]
    return [np.asarray(column, dtype=bool) for column in outcomes]
