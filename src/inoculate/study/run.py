"""Run a study: find or make the artefact of every cell of its plan, and collect the results."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from inoculate.artifacts.executors.base import Artefact, Executor, Local
from inoculate.artifacts.executors.find import find_executor
from inoculate.artifacts.output import require_writable
from inoculate.artifacts.store import Store
from inoculate.attribution.explanation import Explanation
from inoculate.core.errors import InputError
from inoculate.core.options import require_one_of
from inoculate.study.builder import StudyJob
from inoculate.study.cell import Cell
from inoculate.study.config import Study
from inoculate.study.estimate import Estimate
from inoculate.study.kept import Kept
from inoculate.study.load import StudySource, load_study
from inoculate.study.manifest import manifest_of
from inoculate.study.measurements import Measurements
from inoculate.study.observer import Silent, StudyObserver
from inoculate.study.plan import Plan, plan
from inoculate.study.result import EMPTY, StudyRun
from inoculate.study.specs import Specs
from inoculate.training.distributed import ProcessGroup, process_group, undivided
from inoculate.training.methods.names import STATEFUL

PathLike = str | os.PathLike[str]


def run_study(
    study: StudySource,
    *,
    out: PathLike | None = None,
    store: PathLike | None = None,
    data_root: PathLike | None = None,
    only: str | None = None,
    device: str = "cpu",
    executor: str | Executor = "local",
    progress: StudyObserver | None = None,
) -> StudyRun:
    """Train, attack, craft and retrain what a study describes, and save the results.

    When it is interrupted, what has been measured is saved before the exception continues. The saved results also hold
    what earlier runs have measured of this study. Under a launcher (`torchrun`, `accelerate launch`) the processes
    train each network together; the main one does everything else, and each returns the result.

    Args:
        study: a YAML file, the name of a shipped study (`demo`, `paper`), a mapping with a study file's keys, or a
            `Study`.
        out: folder of the results, by default `runs/<name>`.
        store: folder of the artefacts, by default `<out>/store`. Finished steps found there are not repeated. Nor
            are measurements that are in the results of `out`, should the store be gone; a network is then trained
            again only for a measurement that is missing.
        data_root: folder that is searched for datasets before the hub.
        only: one dataset of the study.
        device: such as `cuda`.
        executor: where the steps are computed. `local`: one after the other, here. `processes:N`: in N processes on
            this machine, among which the processors are divided. `ray` or `ray:ADDRESS`: on a Ray cluster. The numbers
            are the same up to the order of floating-point sums, which the number of threads decides. Under a launcher
            only `local`.
        progress: an object with the methods `begin(cell, number, total, left)`, `progress(cell, done, total, facts)`
            and `end(cell, seconds, made, measured)`.

    Raises `InputError` for a study with mistakes, a missing dataset, and a folder that cannot be written.
    """
    study = load_study(study)
    if only is not None:
        require_one_of(tuple(study.datasets), only=only)
    executor = find_executor(executor)
    folder = require_writable(Path(out or Path("runs") / study.name))
    specs = Specs(study, Store(require_writable(Path(store or folder / "store")).absolute()), data_root)
    with process_group(device) as group:
        check_group(study, group, executor)
        if not group.is_main:
            _job(plan(study, only), specs, group).follow()
            return group.broadcast(EMPTY)
        observer, measured = progress or Silent(), Measurements(Kept.read(folder))
        try:
            execute(plan(study, only), specs, measured, observer, executor, group)
            group.broadcast(None)
        finally:
            recall(plan(study), specs, measured)
            measured.arrange(plan(study))
            explanations = tuple(Explanation.load(path) for path in measured.explanations)
            manifest = manifest_of(specs, measured, device)
            result = StudyRun(tuple(measured.rows), measured.records, manifest, explanations, folder)
            if result.rows:
                result.save(folder)
        return group.broadcast(result)


def check_group(study: Study, group: ProcessGroup, executor: Executor) -> None:
    """Raise `InputError` unless every network can be trained by the group, in the parts that are asked for."""
    if group.size > 1 and not isinstance(executor, Local):
        raise InputError("the processes of a launcher train each network together: use executor local with them")
    for dataset in study.datasets:
        training = study.training_for(dataset)
        group.parts(training.batch_size, training.accumulate)
        if group.size * training.accumulate > 1 and {each.method for each in study.methods.values()} & {*STATEFUL}:
            raise undivided()


def _job(cells: Plan, specs: Specs, group: ProcessGroup) -> StudyJob:
    """How cells are made. Raises `InputError` if a dataset is missing."""
    for dataset in cells.datasets:
        specs.source(dataset)
    root = None if specs.data_root is None else str(Path(specs.data_root).absolute())
    return StudyJob(specs.study, specs.store, root, specs.sources, group.device, group)


def execute(
    cells: Plan, specs: Specs, measured: Measurements, observer: StudyObserver, executor: Executor, group: ProcessGroup
) -> None:
    """Make the artefact of every cell and collect it. Raises `InputError` before any work if a dataset is missing."""
    job = _job(cells, specs, group)
    measured.kept.restore(specs, cells)
    watch = _Watch(specs, cells, observer, Estimate(cells.cells, executor.workers))
    missing = _missing(cells, specs, measured.kept)
    for cell in cells:
        if cell not in missing and not specs.repeats(cell):
            watch.begin(cell)
            name = f"{cell.kind}/{specs.path(specs.resolved(cell)).name}"
            watch.end(cell, Artefact(name, made=False, seconds=0.0), measured)
    if not missing:
        return
    with executor.open(job, watch) as pool:
        for cell, artefact in pool.run(missing):
            if artefact is not None:
                watch.end(cell, artefact, measured)


def _missing(cells: Plan, specs: Specs, kept: Kept) -> dict[Cell, tuple[Cell, ...]]:
    """The graph of the cells that are to be made.

    Of networks and examples that are only described, those are made that a cell of the graph depends on.
    """
    missing: set[Cell] = set()
    needed: set[Cell] = set()
    for cell in reversed(cells.cells):
        known = specs.known(cell)
        if known is not None and (specs.repeats(known) or specs.find(known)):
            continue
        if known is None or cell in needed or kept.described(specs, known) is None:
            missing.add(cell)
            needed.update(cells.dependencies[cell])
    return {
        cell: tuple(each for each in cells.dependencies[cell] if each in missing) for cell in cells if cell in missing
    }


@dataclass(frozen=True, eq=False)
class _Watch:
    """Tells a study's observer what an executor reports."""

    specs: Specs
    cells: Plan
    observer: StudyObserver
    estimate: Estimate

    @cached_property
    def numbers(self) -> dict[Cell, int]:
        return {cell: number for number, cell in enumerate(self.cells)}

    def begin(self, cell: Cell) -> None:
        if not self.specs.repeats(cell):
            number = self.numbers[cell]
            self.observer.begin(cell, number + 1, len(self.cells), self.estimate.left(number))

    def progress(self, cell: Cell, done: int, total: int, facts: Mapping[str, float]) -> None:
        self.observer.progress(cell, done, total, facts)

    def end(self, cell: Cell, artefact: Artefact, measured: Measurements) -> None:
        """Collect an artefact."""
        known, folder = self.specs.resolved(cell), self.specs.store.root / artefact.name
        if folder != self.specs.path(known):
            raise InputError(
                f"{known.title}: a worker made another artefact than was asked for: it needs the same version of "
                "inoculate and the same data as this process"
            )
        measured.add(self.specs, known, folder, made=artefact.made)
        if artefact.made:
            self.estimate.add(cell, artefact.seconds)
        self.observer.end(cell, artefact.seconds, artefact.made, measured)


def recall(cells: Plan, specs: Specs, measured: Measurements) -> None:
    """Collect what earlier runs left of the cells that this run did not reach; what is not there is skipped."""
    found = set()
    for dataset in cells.datasets:
        with contextlib.suppress(InputError):  # it is not there any more: searched for once
            specs.source(dataset)
            found.add(dataset)
    there = [cell for cell in cells if cell.dataset in found]
    measured.kept.restore(specs, there)
    for known in measured.missing(filter(None, map(specs.known, there))):
        if not specs.repeats(known) and (specs.find(known) or measured.kept.described(specs, known)):
            measured.add(specs, known, specs.path(known), made=False)
