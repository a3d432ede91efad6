"""The union of several norms: an image withstands an attack only if it does so at every threat."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from inoculate.core.threat import Threat
from inoculate.evaluation.per_sample import PerSampleResult

EPS = 1.0  # of the rows: each norm has its own, named in the row's `threats`


def names_of(threats: Sequence[Threat]) -> tuple[str, ...]:
    """Norm and eps of each threat, and its mask where they do not share one: as rows and `broken_by` name them."""
    own = "" if len({_mask_of(threat) for threat in threats}) == 1 else " in {}"
    return tuple(
        f"{threat.norm} {threat.eps:.4g}" + (own.format(_mask_of(threat)) if _mask_of(threat) else "")
        for threat in threats
    )


def shared_mask(threats: Sequence[Threat]) -> str:
    """The name of the mask that all of the threats have; empty where they have none or several."""
    first, *others = {_mask_of(threat) for threat in threats}
    return "" if others else first


def union_of(threats: Sequence[Threat], results: Sequence[PerSampleResult]) -> PerSampleResult:
    """The worst of one attack's results for each image, one for each of the `threats`.

    `right` where all are. Prediction, margin and distance (in its own norm) are those of the threat under which the
    image is closest to an error, and `broken_by` is the first threat that broke it. Early termination is not audited
    anew: the results of the threats say what was found.
    """
    queries = [result.queries for result in results if result.queries is not None]
    none = torch.zeros_like(results[0].right)
    worst = results[0].copy(
        eps=EPS, seconds=sum(result.seconds for result in results), queries=sum(queries) if queries else None,
        images=None, target=None, terminated=none, audited=none.clone(),
    )  # fmt: skip
    worst.broken_by.fill_(-1)
    for place, result in enumerate(results):
        worst.take(result, ~(result.margin <= worst.margin))
        worst.right.logical_and_(result.right)
        worst.finished.logical_and_(result.finished)
        first = (result.broken_by >= 0) & (worst.broken_by < 0)
        worst.broken_by.copy_(torch.where(first, place, worst.broken_by))
    return worst.copy(names=names_of(threats))


def _mask_of(threat: Threat) -> str:
    return "" if threat.mask is None else threat.mask.name
