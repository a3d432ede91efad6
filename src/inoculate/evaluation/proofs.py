"""Margins proven image by image, by the certifiers of a method in the order of their cost; and their rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from inoculate.artifacts.specs import code_digest
from inoculate.certification.bounds.graph import Graph
from inoculate.certification.bounds.tracing import trace
from inoculate.certification.certifiers import Certifier, get_certifiers
from inoculate.core.errors import InputError
from inoculate.core.progress import Progress
from inoculate.core.row import CERTIFIED
from inoculate.core.threat import Threat, largest_threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.budget import TimeBudget
from inoculate.evaluation.certificate_checks import certificate_checks
from inoculate.evaluation.engine import batches
from inoculate.evaluation.journal import Entries
from inoculate.evaluation.natural import Natural
from inoculate.evaluation.parcels import Arrays
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.result import Evaluation
from inoculate.evaluation.spread import in_batches
from inoculate.models.classifier import Classifier

# What an attack's image may be outside of the ball and the range without being refused (see `distance_within`).
RELATIVE, ABSOLUTE = 1e-4, 1e-6
MISMATCH = 1e-3  # of it: what float32 cannot explain
ROUNDING = 1e-5  # of the largest logit: the least margin that counts as one
_CODE = ("inoculate.certification.bounds", "inoculate.certification.certifiers", "inoculate.evaluation.proofs")
SAMPLE = 32  # images on which the traced network is compared with the model


@dataclass(frozen=True, eq=False)
class Proof:
    """The result at one threat, and how many images each certifier proved (its name, and their number)."""

    result: PerSampleResult
    counts: tuple[tuple[str, int], ...]

    @property
    def words(self) -> str:
        """Which certifier proved how many."""
        return "certified " + (", ".join(f"{count} by {name}" for name, count in self.counts if count) or "none")


@dataclass(frozen=True, eq=False)
class Proofs:
    """What proves margins, and on which images."""

    natural: Natural
    graph: Graph
    method: str
    batch_size: int | None
    progress: Progress | None

    @classmethod
    def begin(cls, natural: Natural, method: str, batch_size: int | None, progress: Progress | None) -> Proofs:
        """Trace the network. Raises `InputError` for one without bounds."""
        return cls(natural, traced(natural.classifier, natural.data), method, batch_size, progress)

    @property
    def certifiers(self) -> tuple[Certifier, ...]:
        return get_certifiers(self.method, self.graph)

    @property
    def described(self) -> dict[str, Any]:
        return {"method": self.method, "tried": [each.name for each in self.certifiers]}

    def added_to(self, found: Evaluation, threats: Sequence[Threat], budget: TimeBudget | None) -> Evaluation:
        """An evaluation of the same images with the rows of the proofs at `threats`, their checks and notes."""
        labels = {name: value for name, value in self.natural.labels.items() if name != "norm"} | {"attack": CERTIFIED}
        proofs = zip(threats, self.of(threats, budget), strict=True)
        rows = {proof.result.row_at(threat, **labels): proof for threat, proof in proofs}
        per_image = found.per_image | {row: proof.result for row, proof in rows.items()}
        return replace(
            found, rows=[*found.rows, *rows], per_image=per_image, checked=found.checked or largest_threat(threats),
            checks=[*found.checks, *(check for row in rows for check in certificate_checks(row, per_image))],
            notes=(*found.notes, *(f"{row.norm} eps {row.eps:.4g}: {proof.words}" for row, proof in rows.items())),
            provenance={**found.provenance, "certified": self.described},
        )  # fmt: skip

    def of(self, threats: Sequence[Threat], budget: TimeBudget | None) -> list[Proof]:
        """The proof at each threat. What is proven at a larger eps is so at a smaller one."""
        found: dict[int, Proof] = {}
        deadline = None if budget is None else budget.deadline
        with torch.no_grad(), self.natural.classifier.ready():
            slack = self._slack()
            for place in sorted(range(len(threats)), key=lambda i: -threats[i].eps):
                threat = threats[place]
                wider = [found[i].result for i in found if replace(threats[i], eps=threat.eps) == threat]
                found[place] = self._prove(threat, slack, wider, deadline)
        return [found[place] for place in range(len(threats))]

    def _prove(self, threat: Threat, slack: Tensor, wider: Sequence[PerSampleResult], deadline: float | None) -> Proof:
        began, clean = time.perf_counter(), self.natural.clean
        margin = torch.where(clean.right, -torch.inf, -clean.margin.double())
        for result in wider:  # those of the next larger eps are the best
            known = (-result.margin.double()).nan_to_num(-torch.inf)
            margin = torch.where(clean.right, torch.maximum(margin, known), margin)
        proven, counts = clean.right & (margin > slack), []
        if bool(proven.any()):
            counts.append(("a larger eps", int(proven.sum())))
        for certifier in self.certifiers:
            rows, before = (clean.right & ~proven).nonzero().squeeze(1), int(proven.sum())
            for part, bounds in self._bounds(certifier, rows, threat, deadline):
                margin[part] = torch.maximum(margin[part], bounds)
                proven[part] = margin[part] > slack[part]
            counts.append((certifier.name, int(proven.sum()) - before))
        margin = torch.where(margin.isfinite(), -margin, torch.nan).float()  # where nothing was tried
        seconds = time.perf_counter() - began
        result = clean.copy(eps=threat.eps, right=proven, margin=margin, seconds=seconds, images=None)
        return Proof(result, tuple(counts))

    def _bounds(
        self, certifier: Certifier, rows: Tensor, threat: Threat, deadline: float | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and lower bounds of their margins: those in the journal, then the others in batches, until the
        deadline (on `time.monotonic`)."""
        size = min(certifier.largest_batch(self.graph), self.batch_size or len(rows) or 1)
        step, entries, left = (
            f"{certifier.name} {threat.norm} eps {threat.eps:.4g}",
            self._entries(certifier, threat),
            rows,
        )
        if entries is not None:
            known, left, kept = entries.find(rows)
            if len(known):
                yield known, torch.from_numpy(kept["margin"])
        done = len(rows) - len(left)
        how = self.natural.classifier, self.natural.data, self.natural.settings, deadline
        for part, found in in_batches(
            lambda part: Proving(certifier, threat.select(part), self.graph), left, size, *how
        ):
            if entries is not None:
                entries.add(part, found)
            yield part, torch.from_numpy(found["margin"])
            done += len(part)
            if self.progress:
                self.progress(step, done, len(rows))

    def _entries(self, certifier: Certifier, threat: Threat) -> Entries | None:
        """What the journal knows of a certifier's bounds at a threat."""
        journal = self.natural.settings.journal
        if journal is None:
            return None
        made_by = {"proof": certifier.name, "code": code_digest(*_CODE)}
        return journal.open([self.natural.classifier], self.natural.data, made_by, [threat])

    def _slack(self) -> Tensor:
        """What a margin must exceed, for each image (N): the model's own rounding, which its bounds do not know.

        Raises `InputError` where the steps that were traced give other logits than the model.
        """
        classifier, data = self.natural.classifier, self.natural.data
        largest, off = torch.zeros(len(data), dtype=torch.float64), 0.0
        for part in batches(torch.arange(len(data)), self.natural.settings.batch_size):
            x, y = classifier.load(data, part)
            logits = classifier.logits(x, y).double()
            largest[part] = 1 + logits.abs().amax(dim=1).nan_to_num(torch.inf).cpu()
            if int(part[0]) < SAMPLE:
                difference = (self.graph.value(x[:SAMPLE].double()) - logits[:SAMPLE]).abs().amax(dim=1).cpu()
                off = max(off, float((difference / largest[part[:SAMPLE]]).max()))
        if not off < MISMATCH:
            raise InputError(f"the steps traced from the model give other logits (by {off:.1%}): no bounds")
        return largest * max(ROUNDING, 4 * off)


def traced(classifier: Classifier, data: Dataset) -> Graph:
    """The steps of the classifier's network. Raises `InputError` for one without bounds."""
    if classifier.is_random or classifier.labels_only:
        raise InputError("bounds need a model that gives the same logits twice: certify it with smoothing")
    return trace(classifier.model, (data.channels, *data.image_size))


@dataclass(frozen=True)
class Proving:
    """The task to prove the margins of images at a threat; `graph` is the classifier's, traced anew elsewhere."""

    certifier: Certifier
    threat: Threat
    graph: Graph | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Proving, (self.certifier, self.threat)

    def __call__(self, classifiers: Sequence[Classifier], data: Dataset, deadline: float | None) -> Arrays | None:
        if deadline is not None and time.monotonic() > deadline:
            return None
        (classifier,) = classifiers
        graph = self.graph or _traced(classifier, (data.channels, *data.image_size))
        x, y = classifier.load(data, torch.arange(len(data)))
        with torch.no_grad(), classifier.ready():
            bounds = self.certifier.margins(graph, x, y, as_attacked(self.threat)).double().cpu()
        return {"margin": bounds.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).numpy()}


@lru_cache(maxsize=1)
def _traced(classifier: Classifier, shape: tuple[int, ...]) -> Graph:
    """The graph of a worker's classifier, for all its batches."""
    return trace(classifier.model, shape)


def as_attacked(threat: Threat) -> Threat:
    """The threat with all images that attacks are allowed to return, in spite of their rounding."""
    low, high = threat.low - ABSOLUTE, threat.high + ABSOLUTE
    eps = threat.eps * (1 + RELATIVE) + ABSOLUTE
    return replace(threat, eps=min(eps, high - low) if threat.norm == "linf" else eps, low=low, high=high)
