"""Attacks one after the other on the same images, ended by a time budget where there is one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from inoculate.attacks.base import Attack, shortened
from inoculate.core.progress import Progress
from inoculate.core.rng import generator, seeded
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import Settings, measure_attack
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.termination import measure_audited
from inoculate.models.classifier import Classifier

FIRST_CHUNK = 8  # images attacked before it is known how long one takes


@dataclass(frozen=True)
class NamedAttack:
    """An attack by its name in the rows, and the threats that it is measured at, which differ in eps alone."""

    name: str
    attack: Attack
    threats: tuple[Threat, ...]


@dataclass(frozen=True)
class TimeBudget:
    """Seconds for all attacks together, which end at `deadline` (on `time.monotonic`)."""

    seconds: float
    deadline: float

    @classmethod
    def start(cls, seconds: float) -> TimeBudget:
        """A budget that runs from now on."""
        return cls(seconds, time.monotonic() + seconds)

    @property
    def used(self) -> float:
        """The part that is used up, in [0, 1] until the deadline."""
        return 1 - (self.deadline - time.monotonic()) / self.seconds


def named_attacks(attacks: Mapping[str, Attack], threats: Sequence[Threat]) -> list[NamedAttack]:
    """Every attack with the threats that differ in eps alone together: a one-step attack needs one gradient for all."""
    return [NamedAttack(name, attack, family) for name, attack in attacks.items() for family in families(threats)]


def families(threats: Sequence[Threat]) -> list[tuple[Threat, ...]]:
    """The threats in groups that differ in eps alone, in order."""
    found: dict[Threat, tuple[Threat, ...]] = {}
    for threat in threats:
        key = replace(threat, eps=0.0)
        found[key] = (*found.get(key, ()), threat)
    return list(found.values())


def check_attacks(classifier: Classifier, data: Dataset, attacks: Sequence[NamedAttack]) -> None:
    """Try every attack on one image at eps 0: one that does not fit raises its `InputError` before any has worked."""
    image, attacked = data.subset([0]), torch.ones(1, dtype=torch.bool)
    for each in attacks:
        with seeded(0):
            threat = replace(each.threats[0].select([0]), eps=0.0)
            measure_attack(classifier, image, shortened(each.attack), [threat], attacked)


def measure_attacks(
    classifier: Classifier,
    data: Dataset,
    attacks: Sequence[NamedAttack],
    clean: PerSampleResult,
    settings: Settings,
    budget: TimeBudget | None = None,
    observer: Progress | None = None,
) -> list[list[PerSampleResult]]:
    """A list per attack with a result per threat, on images whose `clean` result is known.

    Within a budget the images are attacked in chunks in random order, as many as there is time for.
    `observer(what, done, total)` counts images, under a budget percent of the images or of the time.
    """
    results: list[list[PerSampleResult]] = [[] for _ in attacks]
    covered = 0.0  # of the images, in the chunks before
    for number, chunk in enumerate(_chunks(len(data), settings.seed, budget)):
        portion = float(chunk.float().mean()) / max(len(attacks), 1)
        for place, each in enumerate(attacks):
            progress = _progress(observer, attacks, each, budget, (covered + place * portion, portion))
            own = replace(settings, progress=progress, deadline=None if budget is None else budget.deadline)
            with seeded(settings.seed, each.name, number):
                found = measure_audited(classifier, data, each.attack, each.threats, clean.right & chunk, own)
            found = [_restrict(result, chunk, clean) for result in found]
            before = results[place]
            results[place] = [_merge(*pair) for pair in zip(before, found, strict=True)] if before else found
        covered += portion * len(attacks)
    return [[_named(result, clean, each) for result in found] for each, found in zip(attacks, results, strict=True)]


def _progress(
    observer: Progress | None,
    attacks: Sequence[NamedAttack],
    attack: NamedAttack,
    budget: TimeBudget | None,
    span: tuple[float, float],
) -> Callable[[int, int], None] | None:
    """The progress of one attack on one chunk, which makes up `span` (begin, length) of the whole."""
    if observer is None or budget is None:
        return observer and partial(observer, attack.name)
    names, (begin, length) = ", ".join(dict.fromkeys(each.name for each in attacks)), span

    def percent(done: int, total: int) -> None:  # of the images or of the time, whichever is used up first
        observer(names, min(100, int(100 * max(begin + length * done / max(total, 1), budget.used))), 100)

    return percent


def _chunks(n: int, seed: int, budget: TimeBudget | None) -> Iterator[Tensor]:
    """Masks (N, bool) of the images to attack next: all at once, or as many in random order as the time allows."""
    if budget is None:
        yield torch.ones(n, dtype=torch.bool)
        return
    order = torch.randperm(n, generator=generator(seed, "time budget"))
    began, done, size = time.monotonic(), 0, min(FIRST_CHUNK, n)
    while done < n:
        mask = torch.zeros(n, dtype=torch.bool)
        mask[order[done : done + size]] = True
        yield mask
        done += size
        now = time.monotonic()
        affordable = int((budget.deadline - now) / max((now - began) / done, 1e-9) * 0.9)
        size = min(2 * size, affordable, n - done)
        if size < 1:
            return


def _restrict(result: PerSampleResult, chunk: Tensor, clean: PerSampleResult) -> PerSampleResult:
    """The result on a chunk as one on all images: the others are as they are clean, and not finished.

    A part of a chunk does not count as finished: its clean errors are known at once, so it would make the model look
    worse.
    """
    wrong = chunk & ~clean.right
    result.predicted[wrong], result.margin[wrong] = clean.predicted[wrong], clean.margin[wrong]
    finished = chunk.clone() if bool(result.finished.all()) else torch.zeros_like(chunk)
    return replace(result, right=torch.where(chunk, result.right, clean.right), finished=finished)


def _merge(one: PerSampleResult, other: PerSampleResult) -> PerSampleResult:
    """Results on disjoint chunks as one."""
    both = one.copy(
        seconds=one.seconds + other.seconds,
        queries=None if one.queries is None or other.queries is None else one.queries + other.queries,
        right=one.right & other.right,
        broken_by=torch.where(other.finished, other.broken_by, one.broken_by),
        finished=one.finished | other.finished,
        terminated=one.terminated | other.terminated,
        audited=one.audited | other.audited,
        target=None if one.target is None or other.target is None else one.target.maximum(other.target),
    )
    both.take(other, other.finished)
    return both


def _named(result: PerSampleResult, clean: PerSampleResult, attack: NamedAttack) -> PerSampleResult:
    """The result with the attack's name in `broken_by`, where an ensemble has not put those of its members."""
    if result.names:
        return result
    broken = ~result.right & clean.right & result.finished
    return replace(result, names=(attack.name,), broken_by=torch.where(broken, 0, -1))
