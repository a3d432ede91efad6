"""What an earlier run left in the folder of its results, for a run whose store does not hold it any more.

Rows, records and explanations are all that there is to the artefacts of measurements, so these are put back into the
store. Networks and crafted examples are not: they are made again where a measurement that is missing needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from inoculate.artifacts.files import write_json
from inoculate.core.errors import InputError
from inoculate.core.row import AUDIT_FIELDS, Row
from inoculate.study.cell import CHOICE, MEASURED, RIGHT, Cell
from inoculate.study.result import EMPTY, RESULTS, StudyRun
from inoculate.study.specs import Specs

Described = Mapping[str, Any]


@dataclass(frozen=True)
class Kept:
    """An earlier result, and what its manifest says of each cell, by the name of the cell's artefact."""

    result: StudyRun = EMPTY
    cells: Mapping[str, Described] = field(default_factory=dict)

    @staticmethod
    def read(folder: Path) -> Kept:
        """What is in the folder of a study's results. Raises `InputError` if it cannot be read."""
        if not (folder / RESULTS).is_file():
            return Kept()
        try:
            result = StudyRun.load(folder)
        except InputError as error:
            raise InputError(f"{error}; or give another folder for the new results") from None
        return Kept(result, {str(cell.get("artefact")): cell for cell in result.manifest.get("cells", ())})

    def restore(self, specs: Specs, cells: Iterable[Cell]) -> None:
        """Put the measurements of these cells back into the store, as far as they were kept whole."""
        for cell in sorted(cells, key=lambda cell: cell.kind != "surrogate"):  # by their choice others are known
            known = specs.known(cell)
            if known is None or specs.repeats(known) or specs.path(known).exists():
                continue
            if described := self._entry(specs, known):
                self._restore(specs, known, described)

    def described(self, specs: Specs, cell: Cell) -> Described | None:
        """What the manifest says of a network, or of crafted examples; None if they were made from something else."""
        return self._entry(specs, cell) if cell.kind in ("fit", "craft") else None

    def _entry(self, specs: Specs, cell: Cell) -> Described | None:
        return self.cells.get(f"{cell.kind}/{specs.path(cell).name}")

    def _restore(self, specs: Specs, cell: Cell, described: Described) -> None:
        if cell.kind == "evaluate":
            self._restore_evaluation(specs, cell, described)
        elif cell.kind == "explain":
            self._restore_explanation(specs, cell, described)
        elif cell.kind == "surrogate":
            choice = {name: described[name] for name in ("surrogate", "accuracy")}
            _put(specs, cell, described, lambda folder: write_json(folder / CHOICE, choice))

    def _restore_evaluation(self, specs: Specs, cell: Cell, described: Described) -> None:
        protocol = specs.protocol(cell)
        rows = [row for row in self.result if _is_of(row, cell) and row.protocol == protocol]
        records = [self.result.records.get(row.key) for row in rows]
        right = [mask for mask, row in zip(records, rows, strict=True) if mask is not None and len(mask) == row.n]
        if not rows or len(right) < len(rows):
            return

        def fill(folder: Path) -> None:
            np.save(folder / RIGHT, np.stack(right), allow_pickle=False)
            write_json(folder / MEASURED, [_measured(row) for row in rows])

        _put(specs, cell, described, fill)

    def _restore_explanation(self, specs: Specs, cell: Cell, described: Described) -> None:
        named = (each for each in self.result.explanations if each.key == (cell.dataset, cell.model, cell.arm))
        if explanation := next(named, None):
            _put(specs, cell, described, explanation.save)

    @property
    def makers(self) -> list[dict[str, Any]]:
        """Versions and machine of each run that has measured something of the earlier result."""
        manifest = self.result.manifest
        own = {name: manifest.get(name) for name in ("versions", "machine")}
        measured = (manifest.get("machine") or {}).get("device") is not None
        return [*manifest.get("earlier", ()), *([own] if measured else [])]


def _is_of(row: Row, cell: Cell) -> bool:
    return all(getattr(row, name) == getattr(cell, name) for name in ("dataset", "seed", "model", "arm", "attack"))


def _measured(row: Row) -> dict[str, Any]:
    """A row as the artefact of its evaluation lists it."""
    audited = {name: getattr(row, name) for name in AUDIT_FIELDS if getattr(row, name) is not None}
    return {"eps": row.eps, "seconds": row.seconds, **audited}


def _put(specs: Specs, cell: Cell, described: Described, fill: Callable[[Path], Any]) -> None:
    specs.store.get_or_make(cell.kind, specs.of(cell), fill, seconds=described["seconds"])
