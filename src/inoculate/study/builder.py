"""Find or make the artefact of a cell, here or where an executor decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from inoculate.artifacts.executors.base import Artefact, Needs
from inoculate.artifacts.store import Store
from inoculate.data.sources import Source
from inoculate.models.build import check_name
from inoculate.study.cell import Cell
from inoculate.study.config import Study
from inoculate.study.inputs import Inputs, dependencies
from inoculate.study.specs import Specs
from inoculate.study.steps.context import Context, Networks, StepProgress
from inoculate.study.steps.craft import make_examples
from inoculate.study.steps.evaluate import make_evaluation
from inoculate.study.steps.explain import make_explanation
from inoculate.study.steps.fit import make_fit
from inoculate.study.steps.split import SplitData, check_split, load_split, save_split
from inoculate.study.steps.surrogate import make_choice
from inoculate.training.distributed import SINGLE, ProcessGroup

MAKERS: dict[str, Callable[[Path, Cell, Context, Inputs[Path]], None]] = {
    "fit": make_fit,
    "surrogate": make_choice,
    "craft": make_examples,
    "evaluate": make_evaluation,
    "explain": make_explanation,
}
# The part of a GPU that a cell occupies.
GPUS = {"fit": 1.0, "surrogate": 1.0, "craft": 1.0, "evaluate": 1.0, "explain": 1.0}


@dataclass(frozen=True)
class StudyJob:
    """A study's cells as nodes of a graph, for an executor. `sources` are the datasets as the driving process has them.

    A worker with another store searches for the datasets itself. The processes of a `group` train each network
    together: the main one builds, the others `follow`.
    """

    study: Study
    store: Store
    data_root: str | None
    sources: Mapping[str, Source]
    device: str
    group: ProcessGroup = SINGLE

    def start(self, store: Store, progress: StepProgress) -> Callable[[Cell], Artefact | None]:
        """The function that makes a cell's artefact in `store`."""
        return self._builder(store, progress).build

    def follow(self) -> None:
        """Train with the main process of the group what it trains, until it has made all cells."""
        builder = self._builder(self.store, _silent)
        while (order := self.group.broadcast(None)) is not None:
            builder.make(*order)

    def _builder(self, store: Store, progress: StepProgress) -> Builder:
        sources = dict(self.sources) if store == self.store else {}
        specs = Specs(self.study, store, self.data_root, sources)
        return Builder(specs, Networks(self.device), progress, self.group)

    def needs(self, cell: Cell) -> Needs:
        """What a cell of its kind occupies."""
        return Needs() if self.device == "cpu" else Needs(gpus=GPUS[cell.kind])

    def inputs(self, cell: Cell) -> tuple[str, ...]:
        """The artefacts of every cell that a cell depends on, also through others."""
        specs = Specs(self.study, self.store, self.data_root, dict(self.sources))
        found: dict[Cell, Path | None] = {}
        waiting = [cell]
        while waiting:
            for each in map(specs.resolved, dependencies(self.study, waiting.pop())):
                if each not in found:
                    found[each] = specs.find(each)
                    waiting.append(each)
        return tuple(f"{folder.parent.name}/{folder.name}" for folder in found.values() if folder)


@dataclass(eq=False)
class Builder:
    """Makes the artefacts of a study's cells in its store, in any order that its plan allows."""

    specs: Specs
    networks: Networks
    progress: StepProgress
    group: ProcessGroup = SINGLE
    _data: dict[tuple[str, int], SplitData] = field(default_factory=dict)

    def build(self, cell: Cell) -> Artefact | None:
        """Find the artefact of a cell or make it; None where the cell would repeat another one."""
        if self.specs.repeats(cell):
            return None
        began, made = time.perf_counter(), False
        cell = self.specs.resolved(cell)

        def make(folder: Path) -> None:
            nonlocal made
            made = True
            self.make(cell, folder)

        folder = self.specs.store.get_or_make(cell.kind, self.specs.of(cell), make)
        return Artefact(f"{cell.kind}/{folder.name}", made, time.perf_counter() - began)

    def make(self, cell: Cell, folder: Path) -> None:
        """Fill the folder of a cell's artefact; the other processes of a group do so with the main one."""
        data = self._load_data(cell.dataset, cell.seed)
        if cell.kind == "fit" and self.group.is_main:  # the images are in the cache
            self.group.broadcast((cell, folder))
        context = Context(self.specs.study, data, cell.seed, self.networks, self.progress, self.group)
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


def _silent(done: int, total: int, facts: Mapping[str, float]) -> None:
    """The main process reports the progress of all."""
