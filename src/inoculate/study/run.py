"""Run a study: find or make the artefact of every cell of its plan, and collect the results."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from inoculate.artifacts.output import require_writable
from inoculate.artifacts.store import Store
from inoculate.attribution.explanation import Explanation
from inoculate.core.errors import InputError
from inoculate.core.options import require_count, require_one_of
from inoculate.study.builder import Builder
from inoculate.study.cell import Cell
from inoculate.study.estimate import Estimate
from inoculate.study.executors import Executor, serial
from inoculate.study.load import StudySource, load_study
from inoculate.study.manifest import manifest_of
from inoculate.study.measurements import Measurements
from inoculate.study.observer import Silent, StudyObserver
from inoculate.study.plan import Plan, plan
from inoculate.study.result import StudyRun
from inoculate.study.specs import Specs
from inoculate.study.steps.context import Networks

PathLike = str | os.PathLike[str]


def run_study(
    study: StudySource,
    *,
    out: PathLike | None = None,
    store: PathLike | None = None,
    data_root: PathLike | None = None,
    only: str | None = None,
    limit: int | None = None,
    device: str = "cpu",
    progress: StudyObserver | None = None,
) -> StudyRun:
    """Train, attack, craft and retrain what a study describes, and save the results.

    When it is interrupted, what has been measured is saved before the exception continues. The saved results also hold
    what earlier runs have measured of this study.

    Args:
        study: a YAML file, the name of a shipped study (`demo`, `paper`), a mapping with a study file's keys, or a
            `Study`.
        out: folder of the results, by default `runs/<name>`.
        store: folder of the artefacts, by default `<out>/store`. Finished steps found there are not repeated.
        data_root: folder that is searched for datasets before the hub.
        only: one dataset of the study.
        limit: number of images, in place of the study's.
        device: such as `cuda`.
        progress: an object with the methods `begin(cell, number, total, left)`, `progress(done, total, facts)` and
            `end(cell, seconds, made, measured)`.

    Raises `InputError` for a study with mistakes, a missing dataset, and a folder that cannot be written.
    """
    study = load_study(study)
    if limit is not None:
        require_count(limit=limit)
        study = study.model_copy(update={"limit": limit})
    if only is not None:
        require_one_of(tuple(study.datasets), only=only)
    folder = require_writable(Path(out or Path("runs") / study.name))
    specs = Specs(study, Store(require_writable(Path(store or folder / "store"))), data_root)
    observer, measured = progress or Silent(), Measurements()
    try:
        execute(plan(study, only), Builder(specs, Networks(device), observer.progress), measured, observer)
    finally:
        recall(plan(study), specs, measured)
        explanations = tuple(Explanation.load(path) for path in measured.explanations)
        manifest = manifest_of(specs, measured, device)
        result = StudyRun(tuple(measured.rows), measured.records, manifest, explanations, folder)
        if result.rows:
            result.save(folder)
    return result


def execute(
    cells: Plan, builder: Builder, measured: Measurements, observer: StudyObserver, executor: Executor = serial
) -> None:
    """Build the artefact of every cell and collect it. Raises `InputError` before any work if a dataset is missing."""
    specs, estimate = builder.specs, Estimate(cells.cells)
    numbers = {cell: number for number, cell in enumerate(cells)}
    for dataset in cells.datasets:
        specs.source(dataset)

    def begin(cell: Cell) -> None:
        if not specs.repeats(cell):
            observer.begin(cell, numbers[cell] + 1, len(cells), estimate.left(numbers[cell]))

    for cell, artefact in executor(cells, builder.build, begin):
        if artefact is None:
            continue
        measured.add(specs, artefact.cell, artefact.folder, made=artefact.made)
        if artefact.made:
            estimate.add(cell, artefact.seconds)
        observer.end(cell, artefact.seconds, artefact.made, measured)


def recall(cells: Plan, specs: Specs, measured: Measurements) -> None:
    """Collect what earlier runs left of the cells that this run did not reach; what is not there is skipped."""
    missing: set[str] = set()  # datasets that are not there any more: searched for once
    for cell in measured.missing(cells):
        if cell.dataset in missing:
            continue
        try:
            specs.source(cell.dataset)
        except InputError:
            missing.add(cell.dataset)
            continue
        with contextlib.suppress(InputError):  # the surrogate has not been chosen yet
            known = specs.resolved(cell)
            if not specs.repeats(known) and (folder := specs.find(known)):
                measured.collect(specs, known, folder)
