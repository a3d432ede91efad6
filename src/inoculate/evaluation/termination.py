"""Early termination of attacks, audited: some of the images that stand are attacked again with the full budget."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from math import ceil, log
from typing import Any

import torch
from torch import Tensor

from inoculate.attacks.base import Attack, Ensemble
from inoculate.attacks.gradients import lacks_gradient
from inoculate.attacks.termination import FullBudget, terminates, with_full_budget
from inoculate.core.errors import InputError
from inoculate.core.modes import frozen
from inoculate.core.pixels import to_float
from inoculate.core.rng import Draws, generator
from inoculate.core.threat import Norm, Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import Settings, batches, measure_attack
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.models.classifier import Classifier

AUDITED = 0.1  # of the images that stand
ONE_HOT = 24 * log(2)  # between two logits: in fp32 the softmax is then one-hot and the cross-entropy exactly 0


def measure_audited(
    classifier: Classifier,
    data: Dataset,
    attack: Attack,
    threats: Sequence[Threat],
    attacked: Tensor,
    settings: Settings = Settings(),
) -> list[PerSampleResult]:
    """`measure_attack`, whose early termination is audited.

    A random tenth of the images that stand is attacked again with the full budget, and so is each whose outputs are
    saturated. If one of the tenth falls, all are.
    """
    results = measure_attack(classifier, data, attack, threats, attacked, settings)
    if _full(attack, classifier.classes, threats[0].norm) is None:
        return results
    results = [replace(result, terminated=result.right & result.finished) for result in results]
    return finish(classifier, data, attack, threats, results, settings, AUDITED)


@torch.inference_mode(False)  # tensors that are made here outlive the caller's mode
def finish(
    classifier: Classifier,
    data: Dataset,
    attack: Attack,
    threats: Sequence[Threat],
    results: Sequence[PerSampleResult],
    settings: Settings,
    portion: float = 1.0,
) -> list[PerSampleResult]:
    """The results of an attack once a random `portion` of the images on which it ended runs early is attacked in full.

    What breaks under the full budget counts as broken, at every larger eps too. The work ends at the deadline of
    `settings`; images that it did not reach remain as they were.
    """
    full = _full(attack, classifier.classes, threats[0].norm)
    if full is None:
        return list(results)
    settings = replace(settings, progress=None)
    found: dict[float, PerSampleResult] = {}
    smaller: PerSampleResult | None = None
    for threat, result in sorted(zip(threats, results, strict=True), key=lambda pair: pair[0].eps):
        result, own = result.copy(), portion
        if smaller is not None:
            fallen = result.terminated & smaller.finished & ~smaller.right
            _take(result, smaller, fallen)
            result.audited[fallen & smaller.audited], result.terminated[fallen] = True, False
            own = 1.0 if bool((fallen & smaller.audited).any()) else portion
        found[threat.eps] = smaller = _finish_one(classifier, data, full, threat, result, settings, own)
    return [found[threat.eps] for threat in threats]


def _full(attack: Attack, classes: int, norm: Norm) -> Any:
    """What of an attack ends runs early, with the full budget; None where it ends none."""
    if isinstance(attack, Ensemble):
        whole = FullBudget(attack)
        return whole if whole.members(classes, norm) else None
    return with_full_budget(attack) if terminates(attack) else None


def _finish_one(
    classifier: Classifier,
    data: Dataset,
    full: Any,
    threat: Threat,
    result: PerSampleResult,
    settings: Settings,
    portion: float,
) -> PerSampleResult:
    """The result at one eps, its saturated images and a `portion` of the others attacked in full."""
    waiting = result.terminated & result.finished
    saturated = waiting & _saturated(classifier, data, result, waiting, settings)
    waiting &= ~saturated
    drawn = _draw(data, waiting, settings, portion)
    for chosen in (drawn | saturated, waiting & ~drawn):
        if not bool(chosen.any()):
            continue
        (again,) = measure_attack(classifier, data, full, [threat], chosen, settings)
        reached = chosen & again.finished
        result = replace(result, seconds=result.seconds + again.seconds)
        _take(result, again, reached)
        result.audited[reached & waiting] = True
        result.terminated[reached] = False
        if not bool((drawn & ~result.right).any()):
            break
    return result


def _take(result: PerSampleResult, other: PerSampleResult, rows: Tensor) -> None:
    """Take over what another attack found on these rows (N, bool), where it is closer to an error, in place."""
    result.take(other, rows & ~(other.margin <= result.margin))
    broken = rows & result.right & ~other.right
    result.right[broken] = False
    if other.names and result.names:
        places = torch.tensor([result.names.index(name) for name in other.names])
        result.broken_by[broken] = places[other.broken_by[broken]]
    elif result.names:
        result.broken_by[broken] = 0


def _draw(data: Dataset, waiting: Tensor, settings: Settings, portion: float) -> Tensor:
    """A random `portion` of the images `waiting` (N, bool), at least one; each is drawn by its own content alone."""
    chosen, rows = torch.zeros_like(waiting), waiting.nonzero().squeeze(1)
    if portion >= 1 or not len(rows):
        return waiting.clone()
    parts = []
    for some in batches(rows, settings.batch_size):
        draws = Draws(to_float(data.images[some]), generator(settings.seed, "early termination"))
        parts.append(draws.uniform())
    chosen[rows[torch.cat(parts).argsort(stable=True)[: ceil(portion * len(rows))]]] = True
    return chosen


def _saturated(
    classifier: Classifier, data: Dataset, result: PerSampleResult, waiting: Tensor, settings: Settings
) -> Tensor:
    """Where (N, bool) outputs are saturated, so that a run's progress says nothing of its prospects.

    The softmax of the best image found is one-hot in fp32, or cross-entropy has no gradient at all at the clean image.
    """
    saturated = waiting & (result.margin < -ONE_HOT)
    # Where no gradient reaches the images, none was used.
    with suppress(InputError), classifier.ready(), frozen(classifier.model):
        for rows in batches((waiting & ~saturated).nonzero().squeeze(1), settings.batch_size):
            saturated[rows] = lacks_gradient(classifier.model, *classifier.load(data, rows)).cpu()
    return saturated
