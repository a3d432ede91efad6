"""The job `certify`: what is proven of a classifier, beside what attacks leave of it on the same images."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from inoculate.certification.bounds.graph import Graph, trace
from inoculate.certification.bounds.region import require_bounded_norm
from inoculate.certification.certifiers import Certifier, get_certifiers, require_method
from inoculate.core.errors import InputError
from inoculate.core.progress import Progress
from inoculate.core.row import CERTIFIED
from inoculate.core.threat import Threat, largest_threat, require_threats
from inoculate.data.load import DataLike
from inoculate.evaluation.budget import TimeBudget
from inoculate.evaluation.certificate_checks import certificate_checks
from inoculate.evaluation.engine import batches
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.inputs import (
    Attacks,
    name_of_model,
    random_weights_warning,
    resolve_attacks,
    resolve_data,
    resolve_model,
)
from inoculate.evaluation.natural import Natural
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.result import Evaluation
from inoculate.models.loading.load import ModelLike

# What an attack's image may be outside of the ball and the range without being refused (see `distance_within`).
RELATIVE, ABSOLUTE = 1e-4, 1e-6
ROUNDING = 1e-5  # of the largest logit: the least margin that counts as one
SAMPLE = 32  # images on which the traced network is compared with the model


@dataclass(frozen=True)
class CertificationOptions:
    """Settings of `certify`.

    Options:
        method: `ibp`, `crown-ibp` or `crown` (see `margin_bounds`), each after the cheaper ones; `auto` is all that end
            in reasonable time.
        evaluation: as for `evaluate`. A time budget holds for the attacks, and once more for the proofs: images that
            are not reached are not certified.
    """

    method: str = "auto"
    evaluation: EvaluationOptions = EvaluationOptions()

    def __post_init__(self) -> None:
        require_method(self.method)


def certify(
    model: ModelLike,
    data: DataLike,
    threats: Sequence[Threat] = (Threat(),),
    attacks: Attacks = ("autoattack",),
    *,
    batch_size: int | None = None,
    seed: int = 0,
    options: CertificationOptions = CertificationOptions(),
    progress: Progress | None = None,
) -> Evaluation:
    """Prove which images a classifier gets right whatever the attack, and attack the same images.

    The accuracy under the best possible attack lies between the certified one and the lowest under an attack. An image
    is certified at a threat if the model gets it right, and a lower bound of its margin over every image that an attack
    may return exceeds what rounding can explain. Cheap bounds go first, tighter ones get what is left.

    Args:
        model: as for `evaluate`, in fp32, of layers whose bounds are known: convolution, linear, BatchNorm, ReLU and
            other monotone activations, pooling, additions, changes of shape.
        data: as for `evaluate`.
        threats: norms (L∞, L2, L1) and sizes.
        attacks: as for `evaluate`; an empty list leaves them out.
        batch_size: images at a time, by default what fits into memory.
        seed: of every random draw.
        options: everything else.
        progress: as for `evaluate`; for the proofs called as `(what, done, all)` with numbers of images.

    Returns:
        What `evaluate` returns, with a row for each threat whose `attack` is `certified`, and a check of each that
        fails where an attack broke a certified image. The margin of an image is minus a lower bound of the true logit
        minus the largest other one.

    Raises `InputError` for a layer without bounds, which it names, for L0, and as `evaluate` does.
    """
    threats, attacks, own = require_threats(threats), resolve_attacks(attacks), options.evaluation
    if not threats:
        raise InputError("there is no threat to certify: give one such as [Threat('linf', 0.1)]")
    for threat in threats:
        require_bounded_norm(threat)
    images = resolve_data(data, model)
    network, own = resolve_model(model, images, own.device), replace(own, name=own.name or name_of_model(model))
    natural = Natural.begin(network, images, threats[0].norm, batch_size, seed, own)
    proofs = _Proofs.begin(natural, options.method, batch_size, progress)
    how: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "options": own, "progress": progress}
    found = evaluate(network, images, attacks, threats, **how)
    found = replace(found, warnings=[*random_weights_warning(model), *found.warnings])
    return _with_proofs(found, threats, proofs.of(threats, own.start_budget()), proofs)


@dataclass(frozen=True, eq=False)
class Proof:
    """The result at one threat, and how many images each certifier proved (its name, and their number)."""

    result: PerSampleResult
    counts: tuple[tuple[str, int], ...]

    @property
    def words(self) -> str:
        """Which certifier proved how many."""
        return "certified " + (", ".join(f"{count} by {name}" for name, count in self.counts if count) or "none")


def _with_proofs(found: Evaluation, threats: Sequence[Threat], proofs: Sequence[Proof], by: _Proofs) -> Evaluation:
    """The evaluation with the rows of proofs, one for each threat, and their checks and notes."""
    labels = {name: value for name, value in by.natural.labels.items() if name != "norm"} | {"attack": CERTIFIED}
    rows = {proof.result.row_at(threat, **labels): proof for threat, proof in zip(threats, proofs, strict=True)}
    per_image = found.per_image | {row: proof.result for row, proof in rows.items()}
    return replace(
        found, rows=[*found.rows, *rows], per_image=per_image, checked=found.checked or largest_threat(threats),
        checks=[*found.checks, *(check for row in rows for check in certificate_checks(row, per_image))],
        notes=(*found.notes, *(f"{row.norm} eps {row.eps:.4g}: {proof.words}" for row, proof in rows.items())),
        provenance={**found.provenance, "certified": by.described},
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Proofs:
    """What proves margins, and on which images."""

    natural: Natural
    graph: Graph
    method: str
    batch_size: int | None
    progress: Progress | None

    @classmethod
    def begin(cls, natural: Natural, method: str, batch_size: int | None, progress: Progress | None) -> _Proofs:
        """Trace the network. Raises `InputError` for one without bounds."""
        if natural.classifier.is_random or natural.classifier.labels_only:
            raise InputError("bounds need a model that gives the same logits twice: certify it with smoothing")
        graph = trace(natural.classifier.model, (natural.data.channels, *natural.data.image_size))
        return cls(natural, graph, method, batch_size, progress)

    @property
    def certifiers(self) -> tuple[Certifier, ...]:
        return get_certifiers(self.method, self.graph)

    @property
    def described(self) -> dict[str, Any]:
        return {"method": self.method, "tried": [each.name for each in self.certifiers]}

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
            margin = torch.where(clean.right, torch.maximum(margin, -result.margin.double()), margin)
        proven, counts = clean.right & (margin > slack), []
        if bool(proven.any()):
            counts.append(("a larger eps", int(proven.sum())))
        for certifier in self.certifiers:
            rows, before = (clean.right & ~proven).nonzero().squeeze(1), int(proven.sum())
            for part in self._batches(certifier, rows, threat, deadline):
                x, y = self.natural.classifier.load(self.natural.data, part)
                bounds = certifier.margins(self.graph, x, y, _as_attacked(threat.select(part))).cpu()
                margin[part] = torch.maximum(margin[part], bounds.nan_to_num(-torch.inf))
                proven[part] = margin[part] > slack[part]
            counts.append((certifier.name, int(proven.sum()) - before))
        result = clean.copy(
            eps=threat.eps, right=proven, margin=-margin.float(), seconds=time.perf_counter() - began, images=None
        )
        return Proof(result, tuple(counts))

    def _batches(self, certifier: Certifier, rows: Tensor, threat: Threat, deadline: float | None) -> Iterator[Tensor]:
        """The images in batches, until the deadline (on `time.monotonic`)."""
        size = min(certifier.largest_batch(self.graph), self.batch_size or len(rows) or 1)
        step, done = f"{certifier.name} {threat.norm} eps {threat.eps:.4g}", 0
        for part in batches(rows, size):
            if deadline is not None and time.monotonic() > deadline:
                return
            yield part
            done += len(part)
            if self.progress:
                self.progress(step, done, len(rows))

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
        if not off < 1e-2:
            raise InputError(f"the steps traced from the model give other logits (by {off:.1%}): no bounds")
        return largest * max(ROUNDING, 4 * off)


def _as_attacked(threat: Threat) -> Threat:
    """The threat with all images that attacks are allowed to return, in spite of their rounding."""
    low, high = threat.low - ABSOLUTE, threat.high + ABSOLUTE
    eps = threat.eps * (1 + RELATIVE) + ABSOLUTE
    return replace(threat, eps=min(eps, high - low) if threat.norm == "linf" else eps, low=low, high=high)
