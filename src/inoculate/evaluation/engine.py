"""The per-image engine: which images classifiers still get right, clean, attacked, transferred and replayed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inoculate.attacks._minimum_norm import Extended
from inoculate.attacks.base import Attack, EarlyStopping, Ensemble, MinimumNorm
from inoculate.attacks.craft import AdvSet
from inoculate.attacks.termination import with_full_budget
from inoculate.core.deadline import OutOfTimeError, with_deadline
from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.core.rng import seeded
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.crafters import Crafter, by_member, stored, unchanged, white_box
from inoculate.evaluation.journal import Entries, Journal
from inoculate.evaluation.passes import Passes, counted
from inoculate.evaluation.per_sample import PerSampleResult, distance_within
from inoculate.evaluation.tally import Tally
from inoculate.evaluation.targets import target_classes
from inoculate.models.classifier import Classifier

if TYPE_CHECKING:
    from inoculate.evaluation.spread import Spread

Progress = Callable[[int, int], None]
CLEAN = Threat(eps=0.0)


@dataclass(frozen=True)
class Settings:
    """How images are measured, whatever is measured.

    `seed` decides the attacks' random numbers. `deadline` (on `time.monotonic`) ends the work: images are then left
    unfinished. `keep_images` keeps the adversarial images. `progress(done, total)` counts images. What is in the
    `journal` is not measured again, and what is measured goes into it. The batches of the classifiers and the images
    that `spread` is for are measured by its workers.
    """

    batch_size: int = 256
    seed: int = 0
    deadline: float | None = None
    keep_images: bool = False
    progress: Progress | None = None
    journal: Journal | None = None
    spread: Spread | None = None


@torch.inference_mode(False)  # tensors that are made here outlive the caller's mode
def measure_clean(classifier: Classifier, data: Dataset, settings: Settings = Settings()) -> PerSampleResult:
    """The result on the images as they are. Raises `InputError` if the outputs do not fit the labels."""
    everything, own = torch.ones(len(data), dtype=torch.bool), replace(settings, keep_images=False)
    ((result,),) = _measure([classifier], data, unchanged(), [CLEAN], everything, own)
    return result


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

    A list of results per classifier, in it one per threat. What the journal holds is not computed again. Raises
    `InputError` for an image outside the threat model.
    """
    wanted = attacked.nonzero().squeeze(1)
    tally = Tally(len(data), len(classifiers), len(threats), _clean_images(classifiers[0], data, settings))
    entries = _open_journal(classifiers, data, crafter, threats, settings, wanted)
    remaining = wanted if entries is None else entries.restore(tally, wanted)
    done, missing = len(wanted) - len(remaining), torch.zeros(len(data), dtype=torch.bool)
    missing[remaining] = True
    if settings.spread is not None and settings.spread.serves(classifiers, data, crafter, len(remaining)):
        measured = settings.spread.measure(classifiers, crafter, threats, remaining, tally, settings)
    else:
        measured = measure_batches(classifiers, data, crafter, threats, batches(remaining, settings.batch_size), tally)
    with closing(measured):
        for rows in measured:
            if entries is not None:
                entries.record(tally, rows)
            missing[rows], done = False, done + len(rows)
            if settings.progress:
                settings.progress(done, len(wanted))
    return tally.results(threats, missing, classifiers[0].is_black_box and crafter.source is not None)


def measure_batches(
    classifiers: Sequence[Classifier],
    data: Dataset,
    crafter: Crafter,
    threats: Sequence[Threat],
    parts: Iterable[Tensor],
    tally: Tally,
) -> Generator[Tensor, None, None]:
    """Craft batches of rows one after the other and write into the tally what the classifiers make of them.

    Yields the rows of each batch that was measured, until the time is over.
    """
    with ExitStack() as stack:
        passes = stack.enter_context(counted(*_involved(classifiers, crafter)))
        for classifier in classifiers:
            stack.enter_context(classifier.ready())
        for rows in parts:
            try:
                _measure_batch(classifiers, data, crafter, threats, rows, tally, passes)
            except torch.cuda.OutOfMemoryError as error:
                raise InputError(
                    f"not enough memory to attack {len(rows)} images at once: use a smaller batch size"
                ) from error
            except OutOfTimeError:
                return
            yield rows


def _measure_batch(
    classifiers: Sequence[Classifier],
    data: Dataset,
    crafter: Crafter,
    threats: Sequence[Threat],
    rows: Tensor,
    tally: Tally,
    passes: Passes,
) -> None:
    """Craft the images `rows` and write into the tally what the classifiers make of them."""
    first, start = classifiers[0], passes.made
    x, y = first.load(data, rows)
    with _seeded_by(x, depends_on_batch(classifiers, crafter)):
        began, before, made = time.perf_counter(), passes.made, 0.0
        for place, (_, x_adv) in enumerate(crafter.craft(x, y, rows)):
            made = passes.made - before or made  # one search may serve several threats
            tally.queries[rows, place] += made / len(rows)
            moved = distance_within(x_adv, x, threats[place].select(rows))
            for number, classifier in enumerate(classifiers):
                prediction = classifier.predict(*_placed(x_adv, y, first, classifier))
                tally.record(rows, (number, place), prediction, moved, x_adv)
                ended = time.perf_counter()
                tally.seconds[rows, number, place] += (ended - began) / len(rows)
                began = ended
            before = passes.made
    tally.passes[rows] = (passes.made - start) / len(rows)


def depends_on_batch(classifiers: Sequence[Classifier], crafter: Crafter) -> bool:
    """Whether the other images of a batch may decide the result of an image: by what a random model draws for it, or
    because an attack works so."""
    return crafter.depends_on_batch or any(each.is_random for each in _involved(classifiers, crafter))


def _seeded_by(x: Tensor, by_batch: bool) -> AbstractContextManager[None]:
    """Where results depend on the batch, a random state that follows from its images and the seed, whatever was
    measured before."""
    if not by_batch:
        return nullcontext()
    return seeded(torch.initial_seed(), hashlib.sha256(x.cpu().float().numpy().tobytes()).hexdigest())


def _open_journal(
    classifiers: Sequence[Classifier],
    data: Dataset,
    crafter: Crafter,
    threats: Sequence[Threat],
    settings: Settings,
    wanted: Tensor,
) -> Entries | None:
    if settings.journal is None or crafter.made_by is None:
        return None
    involved, made_by = _involved(classifiers, crafter), {**crafter.made_by, "images": settings.keep_images}
    together: list[Tensor] = []
    if depends_on_batch(classifiers, crafter):
        together = list(batches(wanted, settings.batch_size))
        made_by["drawn"] = torch.initial_seed()
    return settings.journal.open(involved, data, made_by, threats, targets=crafter.targets, together=together)


def _involved(classifiers: Sequence[Classifier], crafter: Crafter) -> list[Classifier]:
    """Those that see the images, then the one that they are crafted on."""
    return [*classifiers, *([crafter.source] if crafter.source else [])]


def _placed(x: Tensor, y: Tensor, source: Classifier, target: Classifier) -> tuple[Tensor, Tensor]:
    """Images and labels that were loaded for `source` as `target` takes them."""
    if target.layout is source.layout:
        return x.to(target.device, target.dtype), y.to(target.device)
    return target.placed(x), y.to(target.device)


def _clean_images(classifier: Classifier, data: Dataset, settings: Settings) -> Tensor | None:
    return to_float(data.images).to(classifier.dtype) if settings.keep_images else None


def batches(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Row numbers (N) in parts of at most `size`."""
    return (rows[start : start + size] for start in range(0, len(rows), size))
