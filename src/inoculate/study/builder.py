"""Find or make the artefact of a cell."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from inoculate.models.build import check_name
from inoculate.study.cell import Cell
from inoculate.study.inputs import Inputs
from inoculate.study.specs import Specs
from inoculate.study.steps.context import Context, Networks, StepProgress
from inoculate.study.steps.craft import make_examples
from inoculate.study.steps.evaluate import make_evaluation
from inoculate.study.steps.explain import make_explanation
from inoculate.study.steps.fit import make_fit
from inoculate.study.steps.split import SplitData, check_split, load_split, save_split
from inoculate.study.steps.surrogate import make_choice

MAKERS: dict[str, Callable[[Path, Cell, Context, Inputs[Path]], None]] = {
    "fit": make_fit,
    "surrogate": make_choice,
    "craft": make_examples,
    "evaluate": make_evaluation,
    "explain": make_explanation,
}


class Artefact(NamedTuple):
    """The artefact of a cell (its surrogate resolved): its folder, whether it was made now, the seconds it took."""

    cell: Cell
    folder: Path
    made: bool
    seconds: float


@dataclass(eq=False)
class Builder:
    """Makes the artefacts of a study's cells in its store, in any order that its plan allows."""

    specs: Specs
    networks: Networks
    progress: StepProgress
    _data: dict[tuple[str, int], SplitData] = field(default_factory=dict)

    def build(self, cell: Cell) -> Artefact | None:
        """The artefact of a cell; None where the cell would repeat another one."""
        if self.specs.repeats(cell):
            return None
        began = time.perf_counter()
        cell = self.specs.resolved(cell)
        made = self.specs.find(cell) is None
        folder = self.specs.store.get_or_make(cell.kind, self.specs.of(cell), lambda part: self._make(cell, part))
        return Artefact(cell, folder, made, time.perf_counter() - began)

    def _make(self, cell: Cell, folder: Path) -> None:
        data = self._load_data(cell.dataset, cell.seed)
        context = Context(self.specs.study, data, cell.seed, self.networks, self.progress)
        MAKERS[cell.kind](folder, cell, context, self.specs.inputs(cell).map(self.specs.path))

    def _load_data(self, dataset: str, seed: int) -> SplitData:
        """The decoded parts of a dataset; the split's indices are stored as an artefact."""
        if (dataset, seed) not in self._data:
            specs = self.specs
            for model in specs.study.models:  # a misspelt network is found before hours of work, not after
                check_name(model)
            source = specs.source(dataset)
            data = load_split(specs.study, source, dataset, seed, lambda _, done, total: self.progress(done, total, {}))
            spec = specs.split(dataset, seed)
            check_split(specs.store.get_or_make("split", spec, lambda folder: save_split(folder, data)), data)
            self._data = {(dataset, seed): data}  # one at a time: the images are memory-mapped anyway
        return self._data[dataset, seed]
