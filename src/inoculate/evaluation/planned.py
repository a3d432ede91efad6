"""What an evaluation will measure, so that a requirement can be checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from inoculate.core.requirements import Cell
from inoculate.core.row import CERTIFIED, UNION
from inoculate.core.threat import Threat
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
    certified: bool = False,
) -> list[Cell]:
    """The cells of the rows that an evaluation will have, for `require_planned`.

    Args:
        attacks: their names in rows.
        threats: of the attacks.
        corrupted: kinds and severities of common corruptions.
        movements: of a spatial attack.
        certified: whether bounds are proven at the threats.
    """
    names = list(attacks)
    cells = [Cell("none", "", 0.0), *(Cell(name, threat.norm, threat.eps) for name in names for threat in threats)]
    if certified:
        cells += [Cell(CERTIFIED, threat.norm, threat.eps) for threat in threats]
    if names:
        cells += [Cell(WORST_CASE, threat.norm, threat.eps) for threat in threats]
    if names and len({threat.norm for threat in threats}) > 1:
        cells += [Cell(name, UNION, 0.0) for name in (*names, WORST_CASE)]
    kinds, severities = corrupted or ((), ())
    cells += [Cell(kind, CORRUPTION, float(severity)) for kind in kinds for severity in severities]
    if len(kinds) * len(severities) > 1:
        cells.append(Cell(MEAN, CORRUPTION, 0.0))
    return cells if movements is None else [*cells, Cell(f"spatial_{movements.search}", SPATIAL, 0.0)]
