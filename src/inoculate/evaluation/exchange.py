"""Adversarial examples exchanged among classifiers of the same images: each is judged on those of all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inoculate.attacks.base import Attack
from inoculate.core.rng import seeded
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import Settings, batches, measure_transfer
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.termination import measure_audited
from inoculate.models.classifier import Classifier


@dataclass(frozen=True, eq=False)
class Party:
    """One of the classifiers, its result on clean images, and the attack on it; None where no attack fits it."""

    classifier: Classifier
    clean: PerSampleResult
    attack: Attack | None


def attack_own(
    party: Party, data: Dataset, threats: Sequence[Threat], settings: Settings = Settings()
) -> list[PerSampleResult]:
    """White-box results with the adversarial images, one for each of `threats`, which differ in eps alone."""
    clean = party.clean
    if party.attack is None:
        return [clean.copy(eps=threat.eps, seconds=0.0, broken_by=torch.full((len(data),), -1)) for threat in threats]
    own = replace(settings, keep_images=True)
    results = measure_audited(party.classifier, data, party.attack, threats, clean.right, own)
    for result in results:
        result.take(replace(clean, images=None), ~clean.right)
    return results


def exchange(
    parties: Mapping[str, Party],
    own: Mapping[str, PerSampleResult],
    data: Dataset,
    threat: Threat,
    settings: Settings = Settings(),
) -> dict[str, PerSampleResult]:
    """For each party the worst of its own result and of the examples of all others.

    Every example that broke its own party is shown to the others. An example that an attack stopped at its own party's
    boundary may be too weak for another. Each image that one party lost to an attack and another still has right is
    therefore attacked again on the first, with the full budget and without stopping. So no image makes a difference
    between two parties that an attack on the weaker one was not tried on the other.

    `own` holds the results of `attack_own` at the threat. `broken_by` of the results is the party whose examples broke
    an image. Images are not kept.
    """
    names = tuple(parties)
    found = {name: _with_party(own[name], parties[name], place, names) for place, name in enumerate(names)}
    for name in names:
        _show(name, parties, own[name], found, data, settings)
    for name in names:
        with seeded(settings.seed, "exchange", name):
            _craft_in_full(name, parties, own[name], found, data, threat, settings)
    return found


def _with_party(own: PerSampleResult, party: Party, place: int, names: tuple[str, ...]) -> PerSampleResult:
    broken = party.clean.right & ~own.right
    return own.copy(names=names, images=None, queries=None, broken_by=torch.where(broken, place, -1))


def _show(
    source: str,
    parties: Mapping[str, Party],
    own: PerSampleResult,
    found: Mapping[str, PerSampleResult],
    data: Dataset,
    settings: Settings,
) -> None:
    """Show the examples that broke `source` to the others, on the images that these have right."""
    if own.images is None:
        return
    broken, place = parties[source].clean.right & ~own.right, list(parties).index(source)
    for name, result in found.items():
        classifier = parties[name].classifier
        rows = (broken & result.right).nonzero().squeeze(1) if name != source else broken.new_zeros(0).long()
        with classifier.ready():
            for some in batches(rows, settings.batch_size):
                _, y = classifier.load(data, some)
                prediction = classifier.predict(classifier.placed(own.images[some]), y)
                lost = ~prediction.right
                result.predicted[some[lost]] = prediction.predicted[lost]
                result.margin[some[lost]] = prediction.margin[lost]
                result.distance[some[lost]] = own.distance[some[lost]]
                _lose(result, some[lost], place)


def _craft_in_full(
    source: str,
    parties: Mapping[str, Party],
    own: PerSampleResult,
    found: dict[str, PerSampleResult],
    data: Dataset,
    threat: Threat,
    settings: Settings,
) -> None:
    """Attack `source` in full on the images that it lost to its own attack and some other still has right."""
    party, place = parties[source], list(parties).index(source)
    others = [name for name in parties if name != source]
    broken = party.clean.right & ~own.right
    disputed = torch.stack([broken & found[name].right for name in others]).any(dim=0)
    rows = disputed.nonzero().squeeze(1)
    if party.attack is None or not len(rows):
        return
    targets = [name for name in others if bool(found[name].right[rows].any())]
    crafted = measure_transfer(
        party.classifier, [parties[name].classifier for name in targets], data.subset(rows), party.attack,
        [threat.select(rows)], replace(settings, progress=None),
    )  # fmt: skip
    for name, (result,) in zip(targets, crafted, strict=True):
        before = found[name]
        lost = ~result.right & before.right[rows]
        for field in ("predicted", "margin", "distance"):
            getattr(before, field)[rows[lost]] = getattr(result, field)[lost]
        _lose(before, rows[lost], place)
        found[name] = replace(before, seconds=before.seconds + result.seconds)


def _lose(result: PerSampleResult, rows: Tensor, place: int) -> None:
    """Note in place that the examples of the party number `place` broke these images: what was said of them is over."""
    result.right[rows] = False
    result.broken_by[rows] = place
    result.terminated[rows] = False
    result.audited[rows] = False
