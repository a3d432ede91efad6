"""What a study has measured so far, collected from the artefacts of its cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inoculate.artifacts.files import read_json
from inoculate.artifacts.store import MANIFEST
from inoculate.core.row import AUDIT_FIELDS, Row
from inoculate.study.cell import ANY_SURROGATE, CHOICE, MEASURED, RIGHT, Cell
from inoculate.study.config import MOST_VULNERABLE
from inoculate.study.kept import Kept
from inoculate.study.specs import Specs

_CELL = tuple(each.name for each in fields(Cell))


@dataclass
class Measurements:
    """Rows, per-image records by `Row.key`, and what the manifest says of the surrogates, networks and cells.

    `kept` is what an earlier run left in the folder of the results. `made` counts the artefacts that were not found.
    """

    kept: Kept = field(default_factory=Kept)
    rows: list[Row] = field(default_factory=list)
    records: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    surrogates: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    cells: list[dict[str, Any]] = field(default_factory=list)
    made: int = 0
    _collected: set[Cell] = field(default_factory=set)
    _measured_by: dict[str, Cell] = field(default_factory=dict)  # by the key of a row
    _explained: dict[Cell, Path] = field(default_factory=dict)

    def add(self, specs: Specs, cell: Cell, folder: Path, *, made: bool) -> None:
        """Collect the artefact of a cell whose surrogate is resolved, and list the cell for the manifest."""
        self._collected.add(cell)
        artefact = f"{cell.kind}/{folder.name}"
        if not folder.exists() and (described := self.kept.described(specs, cell)):
            self.cells.append({**described, "made": False})
            self._note(specs, cell, self.kept.result.parameters.get(cell.model))
            return
        facts = self._collect(specs, cell, folder)
        seconds = read_json(folder / MANIFEST)["seconds"]  # of making it, whenever that was
        described = {"cell": cell.title, **asdict(cell), "made": made, "artefact": artefact, "seconds": seconds}
        self.cells.append({**described, **facts})
        self.made += made

    def arrange(self, cells: Iterable[Cell]) -> None:
        """Put everything into the order of a plan; executors finish its cells in another one."""
        order = {cell: number for number, cell in enumerate(cells)}

        def place(cell: Cell) -> int:
            return order.get(cell, order.get(replace(cell, model=ANY_SURROGATE), len(order)))

        self.rows.sort(key=lambda row: place(self._measured_by[row.key]))
        self.records = {row.key: self.records[row.key] for row in self.rows}
        self.cells.sort(key=lambda described: place(Cell(**{key: described[key] for key in _CELL})))
        self._explained = {cell: self._explained[cell] for cell in sorted(self._explained, key=place)}

    @property
    def explanations(self) -> tuple[Path, ...]:
        """Folders in the store."""
        return tuple(self._explained.values())

    def missing(self, cells: Iterable[Cell]) -> Iterator[Cell]:
        """Those of the cells that have not been collected."""
        return (cell for cell in cells if cell not in self._collected)

    def _collect(self, specs: Specs, cell: Cell, folder: Path) -> dict[str, Any]:
        """Collect what the artefact says for the results; returns the rest of it, for the manifest."""
        if cell.kind == "fit":
            self._note(specs, cell, int(read_json(folder / "model.json")["parameters"]))
            return {"history": read_json(folder / "history.json")}
        if cell.kind == "evaluate":
            self._collect_rows(specs, cell, folder)
            return {}
        if cell.kind == "explain":
            self._explained[cell] = folder
            return {}
        self._note(specs, cell, None)
        if cell.kind == "surrogate":
            return dict(read_json(folder / CHOICE))
        return {"zero_gradients": read_json(folder / "advset.json")["zero_gradients"]}

    def _note(self, specs: Specs, cell: Cell, parameters: int | None) -> None:
        """Take note of a network's size, and of the surrogate that a choice or crafted examples show."""
        if cell.kind == "fit" and parameters is not None:
            self.parameters[cell.model] = parameters
        if cell.kind == "surrogate" or (cell.kind == "craft" and specs.study.surrogate != MOST_VULNERABLE):
            self.surrogates[cell.dataset] = specs.surrogate(cell.dataset)

    def _collect_rows(self, specs: Specs, cell: Cell, folder: Path) -> None:
        protocol = specs.protocol(cell)
        right = np.load(folder / RIGHT, allow_pickle=False)
        for measured, mask in zip(read_json(folder / MEASURED), right, strict=True):
            row = Row.measured(
                dataset=cell.dataset,
                model=cell.model,
                arm=cell.arm,
                attack=cell.attack,
                norm=specs.study.norm,
                eps=measured["eps"],
                protocol=protocol,
                correct=int(mask.sum()),
                n=len(mask),
                seed=cell.seed,
                seconds=measured["seconds"],
                **{name: measured[name] for name in AUDIT_FIELDS if name in measured},
            )
            self.rows.append(row)
            self.records[row.key] = mask
            self._measured_by[row.key] = cell
