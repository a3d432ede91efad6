"""Clean and adversarial accuracy, as rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.attacks.base import Attack, MinimumNorm, shortened
from inoculate.attacks.fab import FAB
from inoculate.attacks.fgsm import FGSM
from inoculate.core.errors import InputError
from inoculate.core.rng import generator, seeded
from inoculate.core.row import Row
from inoculate.core.threat import Norm, Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import Keep, Precision, Progress, check_precision, judge_attack, judge_clean
from inoculate.evaluation.per_sample import Outcome, Verdict
from inoculate.models.acceleration.fast import original

FIRST_CHUNK = 8  # images attacked before it is known how long one takes


def evaluate(
    model: nn.Module,
    split: Dataset,
    attacks: Mapping[str, Attack] | None = None,
    threats: Sequence[Threat] = (Threat(),),
    batch_size: int = 256,
    seed: int = 0,
    precision: Precision = "fast",
    *,
    name: str = "model",
    arm: str = "standard",
    time_budget: float | None = None,
    records: dict[str, Verdict] | None = None,
    keep: Callable[[str, Tensor, Tensor, Threat], None] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Row]:
    """Measure a classifier (float images in [0, 1] → logits) on a split: clean, then each attack at each threat.

    Attacks craft on the model (`white-box`), through its `fast` copy unless `precision="exact"`; the verdict is always
    the model's own. Every image counts: one that is misclassified clean is an error under every attack. `name`
    and `arm` label the rows. `time_budget` (seconds) ends the work early: images are then taken in random order, and a
    row counts those that were attacked to the end (its `n`); an attack that finished none has no row.
    `records`, if given, receives the verdict behind each row by its key; `keep(attack, rows, x_adv, threat)` every
    batch of adversarial images; `progress(what, done, total)` counts images, under a `time_budget` percent of the
    whole. Raises `InputError` for images or labels that the model cannot take.
    """
    check_precision(precision)
    model = original(model)
    attacks = {"fgsm": FGSM()} if attacks is None else attacks
    deadline = None if time_budget is None else time.monotonic() + time_budget
    labels: dict[str, Any] = {"dataset": split.name, "model": name, "arm": arm, "protocol": "white-box", "seed": seed}

    def tell(what: str, begin: float, share: float) -> Progress | None:
        if progress is None or deadline is None:
            return progress and partial(progress, what)

        def percent(done: int, total: int) -> None:  # of the images or of the time, whichever is used up first
            used = 1 - (deadline - time.monotonic()) / max(time_budget or 0.0, 1e-9)
            progress(", ".join(attacks), min(100, int(100 * max(begin + share * done / max(total, 1), used))), 100)

        return percent

    def hold(key: str, family: Threat) -> Keep | None:
        return None if keep is None else lambda rows, x_adv, eps: keep(key, rows, x_adv, replace(family, eps=eps))

    with seeded(seed, "clean"):
        clean = judge_clean(model, split, batch_size, progress and partial(progress, "clean"))
    work = [(key, family, epsilons) for key in attacks for family, epsilons in _families(threats)]
    if len(attacks) > 1:
        _try_out(model, split, attacks, threats)
    found: list[list[Verdict]] = [[] for _ in work]
    covered = 0.0  # of the images, in the chunks before
    for part, chunk in enumerate(_chunks(len(split), seed, deadline)):
        each = float(chunk.float().mean()) / len(work)
        for number, (key, family, epsilons) in enumerate(work):
            with seeded(seed, key, part):
                verdicts = judge_attack(
                    model, split, attacks[key], family, epsilons, clean.right & chunk,
                    batch_size=batch_size, seed=seed, precision=precision,
                    progress=tell(key, covered + number * each, each), keep=hold(key, family), deadline=deadline,
                )  # fmt: skip
            fresh = [_within(verdict, chunk, clean) for verdict in verdicts]
            before = found[number]
            found[number] = [_merged(*pair) for pair in zip(before, fresh, strict=True)] if before else fresh
        covered += each * len(work)
    results = [(clean, clean.row(**labels, attack="none", norm=threats[0].norm if threats else "linf"))]
    for (key, family, _), verdicts in zip(work, found, strict=True):
        finished = [v for v in verdicts if v.known is None or bool(v.known.any())]
        results += [(v, v.row(**labels, attack=key, norm=family.norm)) for v in finished]
    if records is not None:
        records.update({row.key: verdict for verdict, row in results})
    return [row for _, row in results]


def minimal_eps(
    model: nn.Module,
    split: Dataset,
    norm: Norm = "linf",
    attack: MinimumNorm | None = None,
    *,
    eps: float = 1.0,
    batch_size: int = 256,
    seed: int = 0,
    precision: Precision = "fast",
) -> Tensor:
    """Per image (N) the smallest eps at which the attack (`FAB` by default) breaks it, as far as it found.

    0 for images that are wrong as they are, infinity where nothing was found within `eps`. The share of entries above
    some eps is the accuracy there: `(minimal_eps(...) > eps).float().mean()` is the whole curve from one search.
    Raises `InputError` for an attack that does not look for the nearest image.
    """
    if attack is not None and not isinstance(attack, MinimumNorm):
        raise InputError(
            f"{type(attack).__name__} uses up its eps and does not look for the nearest image: "
            "give FAB, DeepFool, FMN or CarliniWagner"
        )
    model = original(model)
    clean = judge_clean(model, split, batch_size)
    chosen: Any = FAB() if attack is None else attack
    (verdict,) = judge_attack(
        model, split, chosen, Threat(norm, eps), [eps], clean.right,
        batch_size=batch_size, seed=seed, precision=precision,
    )  # fmt: skip
    assert verdict.outcome is not None
    reached = torch.where(verdict.right, torch.inf, verdict.outcome.distance)
    return torch.where(clean.right, reached, 0.0)


def _try_out(model: nn.Module, split: Dataset, attacks: Mapping[str, Attack], threats: Sequence[Threat]) -> None:
    """Let every attack loose on one image at eps 0: one that does not fit says so before any has worked."""
    images = split.subset([0])
    for attack in attacks.values():
        for threat, _ in _families(threats):
            with seeded(0):
                judge_attack(model, images, shortened(attack), threat, [0.0], torch.ones(1, dtype=torch.bool))


def bounds(verdict: Verdict) -> tuple[float, float]:
    """(lowest, highest) accuracy over all images that what was not finished leaves possible."""
    n, sure = len(verdict.right), verdict.right if verdict.known is None else verdict.right & verdict.known
    return int(sure.sum()) / n, int(verdict.right.sum()) / n


def _chunks(n: int, seed: int, deadline: float | None) -> Iterator[Tensor]:
    """Masks (N, bool) of the images to attack next: all at once, or so many in random order as the time allows."""
    if deadline is None:
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
        affordable = int((deadline - now) / max((now - began) / done, 1e-9) * 0.9)
        size = min(2 * size, affordable, n - done)
        if size < 1:
            return


def _within(verdict: Verdict, chunk: Tensor, clean: Verdict) -> Verdict:
    """The verdict on a chunk as one on all images: they stand as they stood clean, and count if the chunk was finished.

    A part of a chunk does not count: its clean errors are known at once, so it would make the model look worse.
    """
    outcome, first = verdict.outcome, clean.outcome
    assert outcome is not None
    assert first is not None
    wrong = chunk & ~clean.right
    for mine, theirs in ((outcome.predicted, first.predicted), (outcome.margin, first.margin)):
        mine[wrong] = theirs[wrong]
    known = chunk if verdict.known is None else torch.zeros_like(chunk)
    right = torch.where(chunk, verdict.right, clean.right)
    return replace(verdict, right=right, known=None if bool(known.all()) else known)


def _merged(one: Verdict, other: Verdict) -> Verdict:
    """Two verdicts on disjoint chunks as one."""
    assert one.known is not None
    assert other.known is not None
    assert one.outcome is not None
    assert other.outcome is not None
    a, b = one.outcome, other.outcome
    outcome = Outcome(
        torch.where(other.known, b.predicted, a.predicted), torch.where(other.known, b.margin, a.margin),
        torch.where(other.known, b.distance, a.distance), torch.where(other.known, b.broken_by, a.broken_by), a.names,
    )  # fmt: skip
    known = one.known | other.known
    return Verdict(
        one.eps, one.right & other.right, one.seconds + other.seconds, outcome, None if bool(known.all()) else known
    )


def _families(threats: Iterable[Threat]) -> list[tuple[Threat, list[float]]]:
    """Threats that differ in eps alone, together: a one-step attack serves them with a single gradient."""
    families: dict[tuple[str, float, float], tuple[Threat, list[float]]] = {}
    for threat in threats:
        key = (threat.norm, threat.low, threat.high)
        families.setdefault(key, (threat, []))[1].append(threat.eps)
    return list(families.values())
