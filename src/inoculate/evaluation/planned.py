"""What an evaluation will measure, so that a requirement can be checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import get_args

from inoculate.certification.bounds.region import NORMS, require_bounded_norm
from inoculate.core.requirements import Cell, Requirement
from inoculate.core.row import CERTIFIED, UNION
from inoculate.core.threat import Norm, Threat
from inoculate.evaluation.combined import WORST_CASE
from inoculate.evaluation.corruptions import MEAN
from inoculate.evaluation.corruptions import NORM as CORRUPTION
from inoculate.evaluation.spatial import NORM as SPATIAL
from inoculate.evaluation.spatial import Movements


def planned_cells(
    attacks: Iterable[str],
    threats: Sequence[Threat],
    corrupted: tuple[Sequence[str], Sequence[int]] | None = None,
    movements: Movements | None = None,
    *,
    certified: Sequence[Threat] = (),
) -> list[Cell]:
    """The cells of the rows that an evaluation will have, for `require_planned`.

    Args:
        attacks: their names in rows.
        threats: of the attacks.
        corrupted: kinds and severities of common corruptions.
        movements: of a spatial attack.
        certified: threats of the proofs.
    """
    names = list(attacks)
    cells = [Cell("none", "", 0.0), *(Cell(name, threat.norm, threat.eps) for name in names for threat in threats)]
    cells += [Cell(CERTIFIED, threat.norm, threat.eps) for threat in certified]
    if names:
        cells += [Cell(WORST_CASE, threat.norm, threat.eps) for threat in threats]
    if names and len({threat.norm for threat in threats}) > 1:
        cells += [Cell(name, UNION, 0.0) for name in (*names, WORST_CASE)]
    kinds, severities = corrupted or ((), ())
    cells += [Cell(kind, CORRUPTION, float(severity)) for kind in kinds for severity in severities]
    if len(kinds) * len(severities) > 1:
        cells.append(Cell(MEAN, CORRUPTION, 0.0))
    return cells if movements is None else [*cells, Cell(f"spatial_{movements.search}", SPATIAL, 0.0)]


def certified_threats(requirements: Iterable[Requirement], threats: Sequence[Threat]) -> list[Threat]:
    """The threats at which requirements on `certified` need proofs.

    A norm or size that a requirement leaves out is that of `threats`, those of the attacks. Raises `InputError` for a
    norm without bounds, and for a size that its norm does not have.
    """
    found: list[Threat] = []
    for each in requirements:
        if each.attack != CERTIFIED or each.norm not in (None, *get_args(Norm)):
            continue
        bounded = dict.fromkeys(threat.norm for threat in threats if threat.norm in NORMS)
        alike = [threat for threat in threats if each.matches(Cell(CERTIFIED, threat.norm, threat.eps))]
        new = [] if each.size is None else [(norm, each.size) for norm in ([each.norm] if each.norm else bounded)]
        found += alike or [replace(threats[0], norm=norm, eps=eps) for norm, eps in new]  # type: ignore[arg-type]
    for threat in found:
        require_bounded_norm(threat)
    return list(dict.fromkeys(found))
