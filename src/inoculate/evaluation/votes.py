"""What is certified of a smoothed classifier, which votes over noisy copies of an image."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from inoculate.artifacts.specs import code_digest
from inoculate.certification.smoothing import SmoothedCertificates, Smoothing, certify_smoothed
from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.core.progress import Progress
from inoculate.core.rng import generator
from inoculate.core.row import CERTIFIED
from inoculate.core.threat import Threat, largest_threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.budget import TimeBudget
from inoculate.evaluation.checks import Check
from inoculate.evaluation.natural import Natural
from inoculate.evaluation.parcels import Arrays
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.proofs import as_attacked
from inoculate.evaluation.result import Evaluation
from inoculate.evaluation.spread import in_batches
from inoculate.models.classifier import Classifier

_CODE = ("inoculate.certification.smoothing", "inoculate.core", "inoculate.evaluation.votes")
AT_ONCE = 4  # images between two reports of progress


def require_smoothed_norm(threat: Threat) -> None:
    """Raise `InputError` for a threat in another norm than L2."""
    if threat.norm != "l2":
        raise InputError(f"smoothing certifies l2, not {threat.norm}: give --norm l2, or another method")


def certify_votes(
    natural: Natural,
    threats: Sequence[Threat],
    smoothing: Smoothing,
    budget: TimeBudget | None,
    progress: Progress | None,
) -> Evaluation:
    """The clean and the certified accuracy of the smoothed classifier; an image that is abstained from counts as wrong.

    Images that the time budget does not reach are not certified and count.
    """
    began, y = time.perf_counter(), natural.data.labels.cpu()
    found = _certificates(natural, smoothing, None if budget is None else budget.deadline, progress)
    seconds = time.perf_counter() - began
    labels = {**natural.labels, "model": f"{natural.labels['model']} (smoothed, sigma {smoothing.sigma:g})"}
    norm = {"norm": labels.pop("norm")}
    clean = _result(found, found.certified(y, 0.0), 0.0, seconds, found.judged)
    per_image = {clean.row(**labels, **norm, attack="none"): clean} if bool(found.judged.any()) else {}
    for threat in threats:
        right = found.certified(y, as_attacked(threat).eps)
        result = _result(found, right, threat.eps, seconds, torch.ones_like(right))
        per_image[result.row_at(threat, **labels, attack=CERTIFIED)] = result
    checks = [Check("certificates", None, _WORDS.format(1 - smoothing.alpha))]
    late = int((~found.judged).sum())
    notes = [f"the smoothed classifier abstains from {int(found.abstained.sum())} of {int(found.judged.sum())} images"]
    notes += [f"{late} images were not reached within the time budget: they are not certified"] if late else []
    base = natural.evaluation(per_image)
    return Evaluation(
        list(per_image), per_image, checks, base.warnings, base.labels, base.classes, largest_threat(threats),
        (*base.notes, *notes), base.sources, identities=base.identities,
        provenance={**base.provenance, "certified": {"method": "smoothing", **asdict(smoothing)}},
    )  # fmt: skip


_WORDS = (
    "nothing was attacked, for attacks on the network say nothing of its votes; each certificate is true with {:.4g}"
)


def _result(
    found: SmoothedCertificates, right: Tensor, eps: float, seconds: float, finished: Tensor
) -> PerSampleResult:
    result = PerSampleResult.empty(len(right), eps)
    return result.copy(right=right, predicted=found.predicted, finished=finished, seconds=seconds)


@dataclass(frozen=True)
class Voting:
    """The task to certify images by votes over noisy copies. The noise of one does not depend on the others."""

    smoothing: Smoothing
    seed: int

    def __call__(self, classifiers: Sequence[Classifier], data: Dataset, deadline: float | None) -> Arrays:
        (classifier,) = classifiers
        noise = generator(self.seed, "smoothing")
        x, y = to_float(data.images), data.labels
        found = certify_smoothed(classifier.model, x, self.smoothing, y=y, generator=noise, deadline=deadline)
        return {name: each.numpy() for name, each in vars(found).items()}


def _certificates(
    natural: Natural, smoothing: Smoothing, deadline: float | None, progress: Progress | None
) -> SmoothedCertificates:
    """The certificates of all images."""
    data, settings, everything = natural.data, natural.settings, torch.arange(len(natural.data))
    left, entries = everything, None
    parts: list[tuple[Tensor, Arrays]] = []
    if settings.journal is not None:
        made_by = {"smoothing": asdict(smoothing), "seed": settings.seed, "code": code_digest(*_CODE)}
        entries = settings.journal.open([natural.classifier], data, made_by, [])
    if entries is not None:
        known, left, kept = entries.find(everything)
        parts += [(known, kept)] if len(known) else []
    done, task = len(data) - len(left), Voting(smoothing, settings.seed)
    for rows, found in in_batches(lambda _: task, left, AT_ONCE, natural.classifier, data, settings, deadline):
        parts.append((rows, found))
        judged = found["judged"]
        if entries is not None and judged.any():
            entries.add(rows[torch.from_numpy(judged)], {name: each[judged] for name, each in found.items()})
        done += len(rows)
        if progress:
            progress("smoothing", done, len(data))
    order = torch.cat([rows for rows, _ in parts]).argsort().numpy()
    arrays = {name: np.concatenate([found[name] for _, found in parts])[order] for name in parts[0][1]}
    return SmoothedCertificates(**{name: torch.from_numpy(each) for name, each in arrays.items()})
