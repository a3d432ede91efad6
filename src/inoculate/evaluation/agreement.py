"""What the attacks of an evaluation say of each other: early termination, Square against gradients, PGD's strength."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from inoculate.attacks.base import Attack, Ensemble
from inoculate.attacks.pgd import PGD
from inoculate.attacks.square import Square
from inoculate.core.row import UNION, Row
from inoculate.core.stats import exceeds_rate
from inoculate.core.threat import Threat
from inoculate.evaluation.checks import GAP, Check
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.sample import SIGNIFICANT
from inoculate.evaluation.targets import target_name
from inoculate.evaluation.union import names_of, shared_mask, union_of

SQUARE_ALONE = 0.002  # of the images: what Square may break beyond gradient attacks, as in AutoAttack's own warning
FAR_BELOW = 0.1  # of the images: what an ensemble may break beyond PGD; PGD-10 leaves up to 7 points on honest networks


@dataclass(frozen=True, eq=False)
class Measured:
    """A result, its attack by name, and its threat; of clean images (no attack) only the threat's norm counts.

    united: the threats of a union of norms; the first of them is its `threat`.
    """

    name: str
    attack: Attack | None
    threat: Threat
    result: PerSampleResult
    united: tuple[Threat, ...] = ()

    def row(self, **labels: Any) -> Row:
        """Its row, white-box; `labels` are what it does not know."""
        aim = None if self.attack is None else target_name(self.attack)
        labels |= {"protocol": "white-box", "attack": self.name, "target": aim}
        if not self.united:
            return self.result.row_at(self.threat, **labels)
        mask = shared_mask(self.united)
        return self.result.row(**labels, norm=UNION, mask=mask, threats=", ".join(names_of(self.united)))


def unions_of(measured: Sequence[Measured]) -> list[Measured]:
    """The union of the threats for each attack, where they have several norms."""
    attacked = [each for each in measured if each.attack is not None]
    if len({each.threat.norm for each in attacked}) < 2:
        return []
    found = []
    for name in dict.fromkeys(each.name for each in attacked):
        own = [each for each in attacked if each.name == name]
        united = tuple(each.threat for each in own)
        result = union_of(united, [each.result for each in own])
        found.append(replace(own[0], result=result, united=united))
    return found


def known_results(measured: Sequence[Measured]) -> list[tuple[Attack, Threat, PerSampleResult]]:
    """The attacks, threats and results, as `Known` takes them."""
    return [(each.attack, each.threat, each.result) for each in measured if each.attack is not None]


def early_termination_checks(measured: Sequence[Measured]) -> list[Check]:
    """What the audit of early termination found, at the threat where it may hide most; none where none was audited."""
    audits = [(each, found) for each in measured if (found := each.result.audit_fields)]
    if not audits:
        return []
    worst, found = max(audits, key=lambda pair: pair[1]["hidden"])
    words = f"{worst.name} eps {worst.threat.eps:.4g}: {found['audited_broken']} of {found['audited']} images on which "
    words += (
        f"it may have ended runs early fall under the full budget; at most {100 * found['hidden']:.1f} points hidden"
    )
    if found["hidden"] <= GAP:
        return [Check("early termination", True, words)]
    return [Check("early termination", None, f"{words}: give more images, or use autoattack_thorough")]


def disagreement_warnings(measured: Sequence[Measured], classes: int) -> list[str]:
    """A warning for each threat at which gradient attacks, or PGD, were clearly weaker than the others."""
    warnings = []
    for threat in dict.fromkeys(each.threat for each in measured if each.attack is not None):
        breaks = [each for one in measured if one.attack and one.threat == threat for each in _breaks(one, classes)]
        finished = _all(one.result.finished for one in measured if one.attack and one.threat == threat)
        n, at = int(finished.sum()), f"{threat.norm} eps {threat.eps:.4g}"
        square, gradient = (
            _any((b for a, b in breaks if isinstance(a, Square) is free), finished) for free in (True, False)
        )
        alone = int((square & ~gradient & finished).sum())
        gradient_ran = any(not isinstance(attack, Square) for attack, _ in breaks)
        if gradient_ran and exceeds_rate(alone, n, SQUARE_ALONE) < SIGNIFICANT:
            warnings.append(
                f"{at}: Square breaks {alone} of {n} images that no gradient attack breaks: gradients may be masked, "
                "and an attack adapted to this model may break more"
            )
        by_pgd = _any((broken for attack, broken in breaks if isinstance(attack, PGD)), finished)
        beyond = int(((square | gradient) & ~by_pgd & finished).sum())
        if any(isinstance(attack, PGD) for attack, _ in breaks) and exceeds_rate(beyond, n, FAR_BELOW) < SIGNIFICANT:
            warnings.append(
                f"{at}: other attacks break {beyond} of {n} images that PGD leaves right: believe the lowest number"
            )
    return warnings


def _breaks(measured: Measured, classes: int) -> Iterator[tuple[Attack, Tensor]]:
    """The attack or, of an ensemble, each member, and the images (N, bool) that it was the first to break."""
    result, attack = measured.result, measured.attack
    members = list(attack.members(classes, measured.threat.norm).values()) if isinstance(attack, Ensemble) else [attack]
    for place, member in enumerate(members):
        if member is not None:
            yield member, result.broken_by == place


def _any(masks: Iterable[Tensor], like: Tensor) -> Tensor:
    found = torch.zeros_like(like)
    for mask in masks:
        found |= mask
    return found


def _all(masks: Iterable[Tensor]) -> Tensor:
    first, *others = masks
    for mask in others:
        first = first & mask
    return first
