"""The per-image engine: which images classifiers still get right, clean, attacked, transferred and replayed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inoculate.attacks._minimum_norm import Extended
from inoculate.attacks.base import Attack, EarlyStopping, Ensemble, MinimumNorm
from inoculate.attacks.craft import AdvSet
from inoculate.attacks.termination import with_full_budget
from inoculate.core.deadline import OutOfTimeError, with_deadline
from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.crafters import Crafter, by_member, stored, white_box
from inoculate.evaluation.passes import Passes, counted
from inoculate.evaluation.per_sample import PerSampleResult, distance_within
from inoculate.evaluation.targets import target_classes
from inoculate.models.classifier import Classifier, Prediction

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """How images are measured, whatever is measured.

    `seed` decides the attacks' random numbers. `deadline` (on `time.monotonic`) ends the work: images are then left
    unfinished. `keep_images` keeps the adversarial images. `progress(done, total)` counts images.
    """

    batch_size: int = 256
    seed: int = 0
    deadline: float | None = None
    keep_images: bool = False
    progress: Progress | None = None


@torch.inference_mode(False)  # tensors that are made here outlive the caller's mode
def measure_clean(classifier: Classifier, data: Dataset, settings: Settings = Settings()) -> PerSampleResult:
    """The result on the images as they are. Raises `InputError` if the outputs do not fit the labels."""
    began, result = time.perf_counter(), PerSampleResult.empty(len(data))
    with classifier.ready():
        for rows in batches(torch.arange(len(data)), settings.batch_size):
            x, y = classifier.load(data, rows)
            _record(result, rows, classifier.predict(x, y))
            if settings.progress:
                settings.progress(int(rows[-1]) + 1, len(data))
    return replace(result, seconds=time.perf_counter() - began)


@torch.inference_mode(False)
def measure_attack(
    classifier: Classifier,
    data: Dataset,
    attack: Attack,
    threats: Sequence[Threat],
    attacked: Tensor,
    settings: Settings = Settings(),
) -> list[PerSampleResult]:
    """White-box results, one for each of `threats`, which differ in eps alone.

    Only the images `attacked` (N, bool: those that are right when clean) are attacked; the rest are errors. On a
    classifier prepared as `fast` an image is left alone once the model misclassifies it; as `exact` the attack runs as
    it was given. An ensemble's members run one after the other on what all before them left.
    """
    with with_deadline(classifier.crafting, settings.deadline):
        if isinstance(attack, Ensemble):
            return _measure_ensemble(classifier, data, attack, threats, attacked, settings)
        stops = classifier.precision == "fast" and not classifier.is_random  # whose verdict on an image changes
        if stops and isinstance(attack, EarlyStopping):
            attack = attack.with_early_stop()
        targets = _targets(classifier, data, attack, attacked, settings)
        crafter = white_box(classifier, attack, threats, settings.seed, targets)
        (results,) = _measure([classifier], data, crafter, threats, attacked, settings)
    return [_aimed(result, targets, data) for result in results]


@torch.inference_mode(False)
def measure_transfer(
    source: Classifier,
    targets: Sequence[Classifier],
    data: Dataset,
    attack: Attack,
    threats: Sequence[Threat],
    settings: Settings = Settings(),
) -> list[list[PerSampleResult]]:
    """Results of each target on examples crafted once on `source`: a list per target, in it one result per threat.

    All images are attacked, without stopping at the source's boundary: the targets have others. Any member of an
    ensemble may break an image. `seconds` of the first target include the crafting, those of the others the evaluation
    alone.
    """
    everything = torch.ones(len(data), dtype=torch.bool)
    members = attack.members(source.classes, threats[0].norm) if isinstance(attack, Ensemble) else {"": attack}
    aims = _targets(source, data, attack, everything, settings)
    found: list[list[PerSampleResult]] = []
    for number, member in enumerate(members.values()):
        crafter = white_box(source, in_full(member), threats, settings.seed, aims)
        own = replace(settings, progress=_part(settings.progress, number, len(members)))
        results = _measure(targets, data, crafter, threats, everything, own if len(members) > 1 else settings)
        results = [[_aimed(result, aims, data) for result in of_one] for of_one in results]
        found = results if not found else [list(map(_worse, *pair)) for pair in zip(found, results, strict=True)]
    return found


def in_full(attack: Attack) -> Attack:
    """The same attack, which neither stops at the boundary of the model that it is called on nor ends runs early."""
    attack = with_full_budget(attack)
    if isinstance(attack, EarlyStopping):
        return attack.without_early_stop()
    return Extended(attack) if isinstance(attack, MinimumNorm) else attack


def _worse(one: PerSampleResult, other: PerSampleResult) -> PerSampleResult:
    """For each image the result of the two attacks that is closer to an error; their seconds are added."""
    merged = one.copy(seconds=one.seconds + other.seconds)
    merged.take(
        other, (other.reached & ~one.reached) | ((other.reached == one.reached) & ~(other.margin <= one.margin))
    )
    merged.finished.logical_and_(other.finished)
    merged.right.copy_(one.right & other.right)
    return merged


@torch.inference_mode(False)
def measure_examples(
    classifier: Classifier,
    data: Dataset,
    examples: AdvSet,
    epsilons: Sequence[float],
    attacked: Tensor,
    settings: Settings = Settings(),
) -> list[PerSampleResult]:
    """Results on stored examples, which were crafted on another model or another version of this one, one per eps.

    `examples` may cover more images than `data`, as long as the data are their beginning.
    """
    crafter = stored(examples, epsilons)
    (results,) = _measure([classifier], data, crafter, [Threat(eps=eps) for eps in epsilons], attacked, settings)
    return results


def _measure_ensemble(
    classifier: Classifier,
    data: Dataset,
    ensemble: Ensemble,
    threats: Sequence[Threat],
    attacked: Tensor,
    settings: Settings,
) -> list[PerSampleResult]:
    """One member after the other, each on full batches of the images that all before it, at any smaller eps, left."""
    members = ensemble.members(classifier.classes, threats[0].norm)
    best = PerSampleResult.empty(len(data), 0.0, members, _clean_images(classifier, data, settings))
    best.right.copy_(attacked)
    targets = _targets(classifier, data, ensemble, attacked, settings)
    best, remaining = _aimed(best, targets, data), attacked.clone()
    found: dict[float, PerSampleResult] = {}
    for eps, threat in sorted({threat.eps: threat for threat in threats}.items()):
        seconds = 0.0
        for number, (name, member) in enumerate(members.items()):
            crafter = by_member(classifier, name, member, threat, settings.seed, targets)
            own = replace(settings, progress=_part(settings.progress, number, len(members)))
            ((result,),) = _measure([classifier], data, crafter, [threat], remaining, own)
            _merge_member(best, replace(result, target=best.target), number, remaining)
            seconds += result.seconds
        found[eps] = best.copy(eps=eps, seconds=seconds)
    return [found[threat.eps] for threat in threats]


def _merge_member(best: PerSampleResult, result: PerSampleResult, member: int, remaining: Tensor) -> None:
    """Take over what a member found on the images that `remaining` (N, bool) says, where it is closer to its aim.

    In place. Images on which it succeeded remain no longer.
    """
    seen = remaining & result.finished
    succeeded = seen & result.succeeded
    best.take(result, succeeded | (seen & ~(result.margin <= best.margin)))
    best.broken_by[succeeded | (seen & ~result.right & (best.broken_by < 0))] = member
    best.finished.logical_and_(result.finished)
    best.right.logical_and_(result.right | ~seen)
    remaining.logical_and_(~succeeded)


def _targets(
    classifier: Classifier, data: Dataset, attack: Attack | Ensemble, attacked: Tensor, settings: Settings
) -> Tensor | None:
    """The target class (N) of each image attacked, −1 of the others; None without a target."""
    parts = list(batches(attacked.nonzero().squeeze(1), settings.batch_size))
    return target_classes(classifier, data, attack, parts, settings.seed)


def _aimed(result: PerSampleResult, targets: Tensor | None, data: Dataset) -> PerSampleResult:
    """The result with the targets of the images that belong to another class."""
    if targets is None:
        return result
    return replace(result, target=torch.where(targets == data.labels.cpu(), -1, targets))


def _part(progress: Progress | None, number: int, count: int) -> Progress | None:
    """The progress of one of `count` members as that of the whole ensemble, in percent."""
    if progress is None:
        return None
    return lambda done, total: progress(round(100 * (number + done / max(total, 1)) / count), 100)


def _measure(
    classifiers: Sequence[Classifier],
    data: Dataset,
    crafter: Crafter,
    threats: Sequence[Threat],
    attacked: Tensor,
    settings: Settings,
) -> list[list[PerSampleResult]]:
    """Craft each batch of the images `attacked` (N, bool) once and show it to every classifier.

    A list of results per classifier, in it one per threat. Raises `InputError` for an image outside the threat model.
    """
    first, remaining, done = classifiers[0], attacked.nonzero().squeeze(1), 0
    images = _clean_images(first, data, settings)
    results = [[PerSampleResult.empty(len(data), threat.eps, images=images) for threat in threats] for _ in classifiers]
    seconds = [[0.0] * len(threats) for _ in classifiers]
    queries = [0] * len(threats)
    with ExitStack() as stack:
        passes = stack.enter_context(counted(first)) if first.is_black_box else None
        for classifier in classifiers:
            stack.enter_context(classifier.ready())
        try:
            for rows in batches(remaining, settings.batch_size):
                x, y = first.load(data, rows)
                began, before, made = time.perf_counter(), _made(passes), 0
                for place, (_, x_adv) in enumerate(crafter(x, y, rows)):
                    made = _made(passes) - before or made  # one search may serve several threats
                    queries[place] += made
                    moved = distance_within(x_adv, x, threats[place].select(rows))
                    for number, classifier in enumerate(classifiers):
                        prediction = classifier.predict(*_placed(x_adv, y, first, classifier))
                        _record(results[number][place], rows, prediction, moved, x_adv)
                        ended = time.perf_counter()
                        seconds[number][place] += ended - began
                        began = ended
                    before = _made(passes)
                done += len(rows)
                if settings.progress:
                    settings.progress(done, len(remaining))
        except torch.cuda.OutOfMemoryError as error:
            raise InputError(
                f"not enough memory to attack {len(rows)} images at once: use a smaller batch size"
            ) from error
        except OutOfTimeError:
            for result in (each for of_one in results for each in of_one):
                result.finished[remaining[done:]] = False
                result.right[remaining[done:]] = True
    asked = queries if first.is_black_box else [None] * len(threats)
    return [
        [replace(result, seconds=time_, queries=made) for result, time_, made in zip(*pair, asked, strict=True)]
        for pair in zip(results, seconds, strict=True)
    ]


def _made(passes: Passes | None) -> int:
    return 0 if passes is None else int(passes.made)


def _record(
    result: PerSampleResult,
    rows: Tensor,
    prediction: Prediction,
    moved: Tensor | None = None,
    x_adv: Tensor | None = None,
) -> None:
    """Note what a classifier made of a batch, in place."""
    result.right[rows], result.predicted[rows] = prediction.right, prediction.predicted
    result.margin[rows] = prediction.margin
    if moved is not None:
        result.distance[rows] = moved.float().cpu()
    if x_adv is not None and result.images is not None:
        result.images[rows] = x_adv.detach().cpu()


def _placed(x: Tensor, y: Tensor, source: Classifier, target: Classifier) -> tuple[Tensor, Tensor]:
    """Images and labels that were loaded for `source` as `target` takes them."""
    x, y = x.to(target.device, target.dtype), y.to(target.device)
    return (x if target.layout is source.layout else x.contiguous(memory_format=target.layout)), y


def _clean_images(classifier: Classifier, data: Dataset, settings: Settings) -> Tensor | None:
    return to_float(data.images).to(classifier.dtype) if settings.keep_images else None


def batches(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Row numbers (N) in parts of at most `size`."""
    return (rows[start : start + size] for start in range(0, len(rows), size))
