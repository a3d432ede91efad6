"""Which images a model still gets right: clean, under an attack, under an ensemble of attacks, and replayed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from inoculate.attacks.base import Attack, EarlyStopping, Ensemble
from inoculate.attacks.craft import AdvSet
from inoculate.attacks.sweep import sweep
from inoculate.core.errors import InputError
from inoculate.core.deadline import OutOfTimeError, with_deadline
from inoculate.core.rng import generator
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.per_sample import Outcome, Verdict, check_allowed, judge_batch, loader
from inoculate.models.acceleration.fast import fast
from inoculate.models.acceleration.small_maps import inference_context

Progress = Callable[[int, int], None]
Precision = Literal["fast", "exact"]
# Receives the rows of a batch, its adversarial images and their eps, as they are judged.
Keep = Callable[[Tensor, Tensor, float], None]


def check_precision(precision: str) -> None:
    """Raise `InputError` unless this is a way to craft."""
    if precision not in get_args(Precision):
        raise InputError(f"precision '{precision}' is unknown: use fast or exact")


@torch.inference_mode(False)  # what is made here outlives the caller's mode
def judge_clean(model: nn.Module, split: Dataset, batch_size: int = 256, progress: Progress | None = None) -> Verdict:
    """Which images the model gets right as they are. Raises `InputError` if its outputs do not fit the labels."""
    began = time.perf_counter()
    right, outcome = torch.zeros(len(split), dtype=torch.bool), Outcome.empty(len(split))
    with inference_context(model):
        load = loader(model, split)
        for rows in _batches(torch.arange(len(split)), batch_size):
            x, y = load(rows)
            right[rows] = judge_batch(model, x, y, len(split.classes), outcome, rows)
            if progress:
                progress(int(rows[-1]) + 1, len(split))
    return Verdict(0.0, right, time.perf_counter() - began, outcome)


@torch.inference_mode(False)
def judge_attack(
    model: nn.Module,
    split: Dataset,
    attack: Attack,
    threat: Threat,
    epsilons: Sequence[float],
    clean: Tensor,
    *,
    batch_size: int = 256,
    seed: int = 0,
    precision: Precision = "fast",
    progress: Progress | None = None,
    keep: Keep | None = None,
    deadline: float | None = None,
) -> list[Verdict]:
    """White-box verdicts, one per eps. Only images right when `clean` (N, bool) are attacked: the rest are errors.

    With `precision="fast"` the attack crafts on the model's `fast` copy and leaves an image alone once the model
    itself misclassifies it; with `"exact"` it runs as it was given. `deadline` (on `time.monotonic`) ends the work:
    images that were not finished are not `known`, and `right` unless they are already broken.
    """
    crafting = fast(model) if precision == "fast" else model
    if isinstance(attack, Ensemble):
        with with_deadline(crafting, deadline):
            return _judge_ensemble(
                model, crafting, split, attack, threat, epsilons, clean, batch_size, seed, progress, keep
            )
    if precision == "fast" and isinstance(attack, EarlyStopping):
        attack = attack.with_early_stop()

    def adversarial(x: Tensor, rows: Tensor) -> Iterator[tuple[float, Tensor]]:
        y = split.labels[rows].to(x.device)
        return sweep(attack, crafting, x, y, threat, epsilons, generator=generator(seed, "attack", device=x.device))

    with with_deadline(crafting, deadline):
        return _judge_all(model, split, clean, threat, epsilons, adversarial, batch_size, progress, keep)


@torch.inference_mode(False)
def judge_replay(
    model: nn.Module,
    split: Dataset,
    examples: AdvSet,
    epsilons: Sequence[float],
    clean: Tensor,
    *,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Verdicts on examples that were crafted on another model (or another version of this one), one per eps.

    `examples` may cover more images than `split`, as long as the split is their beginning.
    """

    def adversarial(x: Tensor, rows: Tensor) -> Iterator[tuple[float, Tensor]]:
        return ((eps, examples.images(x, rows, eps)) for eps in epsilons)

    return _judge_all(model, split, clean, Threat(), epsilons, adversarial, batch_size, progress)


def _judge_ensemble(
    model: nn.Module,
    crafting: nn.Module,
    split: Dataset,
    ensemble: Ensemble,
    threat: Threat,
    epsilons: Sequence[float],
    clean: Tensor,
    batch_size: int,
    seed: int,
    progress: Progress | None,
    keep: Keep | None,
) -> list[Verdict]:
    """One member after the other, each on full batches of the images that all before it, at any smaller eps, left."""
    members = ensemble.members(len(split.classes))
    found: dict[float, Verdict] = {}
    standing, known = clean.clone(), torch.ones_like(clean)
    outcome = Outcome.empty(len(split), members)
    for eps in sorted(set(epsilons)):
        seconds = 0.0
        for number, (name, member) in enumerate(members.items()):

            def adversarial(
                x: Tensor, rows: Tensor, name: str = name, member: Attack = member, eps: float = eps
            ) -> Iterator[tuple[float, Tensor]]:
                y = split.labels[rows].to(x.device)
                draw = generator(seed, "attack", name, device=x.device)
                yield eps, member(crafting, x, y, replace(threat, eps=eps), generator=draw)

            step = None if progress is None else partial(_percent, progress, number / len(members), 1 / len(members))
            (verdict,) = _judge_all(model, split, standing, threat, [eps], adversarial, batch_size, step, keep)
            _note(outcome, verdict, standing, number)
            seconds += verdict.seconds
            if verdict.known is not None:
                known &= verdict.known
            standing = standing & verdict.right
        unfinished = None if known.all() else known.clone()
        found[eps] = Verdict(eps, standing, seconds, copy.deepcopy(outcome), unfinished)
    return [found[eps] for eps in epsilons]


def _percent(progress: Progress, begin: float, share: float, done: int, total: int) -> None:
    """Tell the progress of one member as that of the whole ensemble, in percent."""
    progress(round(100 * (begin + share * done / max(total, 1))), 100)


def _note(outcome: Outcome, verdict: Verdict, attacked: Tensor, member: int) -> None:
    """Take over what a member found on the images that it attacked, where it came closer than those before it."""
    new = verdict.outcome
    assert new is not None
    seen = attacked if verdict.known is None else attacked & verdict.known
    closer = seen & ~(new.margin <= outcome.margin)
    for mine, found in (
        (outcome.predicted, new.predicted),
        (outcome.margin, new.margin),
        (outcome.distance, new.distance),
    ):
        mine[closer] = found[closer]
    outcome.broken_by[seen & ~verdict.right] = member


def _judge_all(
    model: nn.Module,
    split: Dataset,
    clean: Tensor,
    threat: Threat,
    epsilons: Sequence[float],
    adversarial: Callable[[Tensor, Tensor], Iterator[tuple[float, Tensor]]],
    batch_size: int,
    progress: Progress | None = None,
    keep: Keep | None = None,
) -> list[Verdict]:
    seconds = dict.fromkeys(epsilons, 0.0)
    standing, done = clean.nonzero().squeeze(1), 0
    known = torch.ones_like(clean)
    right = {eps: torch.zeros(len(split), dtype=torch.bool) for eps in epsilons}
    outcomes = {eps: Outcome.empty(len(split)) for eps in epsilons}
    with inference_context(model):
        try:
            load = loader(model, split)
            for rows in _batches(standing, batch_size):
                x, y = load(rows)
                began = time.perf_counter()
                for eps, x_adv in adversarial(x, rows):
                    far = check_allowed(x_adv, x, replace(threat, eps=eps))
                    right[eps][rows] = judge_batch(model, x_adv, y, len(split.classes), outcomes[eps], rows)
                    outcomes[eps].distance[rows] = far.float().cpu()
                    if keep:
                        keep(rows, x_adv, eps)
                    seconds[eps] += time.perf_counter() - began
                    began = time.perf_counter()
                done += len(rows)
                if progress:
                    progress(done, len(standing))
        except torch.cuda.OutOfMemoryError as error:
            raise InputError(f"no memory for attacking {len(rows)} images at once: lower --batch-size") from error
        except OutOfTimeError:
            known[standing[done:]] = False
            for each in right.values():
                each[standing[done:]] = True
    unfinished = None if known.all() else known
    return [Verdict(eps, right[eps], seconds[eps], outcomes[eps], unfinished) for eps in epsilons]


def _batches(rows: Tensor, size: int) -> Iterable[Tensor]:
    return (rows[start : start + size] for start in range(0, len(rows), size))
