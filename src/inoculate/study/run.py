"""Run a study: find or make the artefact of every cell, then collect the rows.

Nothing here imports torch unless an artefact has to be made, so a finished study is read back in a moment.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from inoculate.artifacts.files import read_json
from inoculate.artifacts.store import MANIFEST, Store
from inoculate.core.errors import InputError
from inoculate.core.row import Row
from inoculate.study.config import MOST_VULNERABLE, Study
from inoculate.study.plan import Cell
from inoculate.study.specs import Specs

if TYPE_CHECKING:
    from inoculate.study.make import Data


class Left(NamedTuple):
    """The time that a run still takes; `unseen` where kinds of work are to come that it knows nothing of: at least."""

    seconds: float
    unseen: bool


class Watcher(Protocol):
    """Who looks on while a study runs."""

    def begin(self, cell: Cell, number: int, total: int, left: Left | None) -> None: ...
    def progress(self, done: int, total: int, facts: Mapping[str, float]) -> None: ...
    def end(self, cell: Cell, seconds: float, made: bool, run: Run) -> None: ...


@dataclass
class Run:
    """A study under way: where things are, and what has been measured so far."""

    study: Study
    store: Store
    data_root: Path | None = None
    pick_device: Callable[[], str] = lambda: "cpu"  # asked only when something has to be computed
    rows: list[Row] = field(default_factory=list)
    records: dict[str, np.ndarray[Any, np.dtype[np.bool_]]] = field(default_factory=dict)
    surrogates: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    cells: list[dict[str, Any]] = field(default_factory=list)
    explanations: list[Path] = field(default_factory=list)
    device: str | None = None
    specs: Specs = field(init=False)
    _noted: set[Cell] = field(default_factory=set)
    _data: dict[tuple[str, int], Data] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.specs = Specs(self.study, self.store, self.data_root)

    def go(self, watcher: Watcher, cells: Sequence[Cell]) -> None:
        """Work through cells of the plan, in its order. Raises `InputError` before any work if a dataset is missing."""
        for dataset in {cell.dataset: None for cell in cells}:
            self.specs.source(dataset)
        estimate = _Estimate(cells)
        for number, cell in enumerate(cells):
            if self.specs.repeats(cell):
                continue
            watcher.begin(cell, number + 1, len(cells), estimate.left(number))
            began = time.perf_counter()
            made, facts = self._do(cell, watcher)
            seconds = time.perf_counter() - began
            self.cells.append({"cell": cell.title, **asdict(cell), "made": made, **facts})
            estimate.add(number, seconds, made)
            watcher.end(cell, seconds, made, self)

    def recall(self, cells: Sequence[Cell]) -> None:
        """Collect what earlier runs left of those cells that this run did not reach; the rest is passed over."""
        missing: set[str] = set()  # datasets that are not there any more: asked for once
        for cell in cells:
            if cell in self._noted or cell.dataset in missing:
                continue
            try:
                self.specs.source(cell.dataset)
            except InputError:
                missing.add(cell.dataset)
                continue
            with contextlib.suppress(InputError):  # the surrogate has not been chosen yet
                known = self.specs.resolved(cell)
                if not self.specs.repeats(known) and (folder := self.store.find(known.kind, self.specs.of(known))):
                    self._note(known, folder)

    def artefact(self, cell: Cell) -> Path:
        """Where a cell's artefact is, or will be."""
        return self.store.path(cell.kind, self.specs.of(cell))

    def data(self, dataset: str, seed: int, watcher: Watcher) -> Data:
        """The decoded parts of a dataset; the split's indices are stored as an artefact."""
        from inoculate.study import make

        if (dataset, seed) not in self._data:
            chosen = self.study.datasets[dataset]
            data = make.load_parts(self.study, self.specs.source(dataset), chosen, dataset, seed, watcher.progress)
            spec = self.specs.split(dataset, seed)
            stored = self.store.get_or_make("split", spec, lambda folder: make.save_parts(folder, data))
            make.check_parts(stored, data)
            self._data = {(dataset, seed): data}  # one at a time: the images are memory-mapped anyway
        return self._data[dataset, seed]

    def splits(self) -> dict[str, Any]:
        """Per dataset: source, content hash, skipped files, and per seed the artefact with the split's indices."""
        found = {}
        for name, source in self.specs.sources.items():
            spec = {seed: self.specs.split(name, seed) for seed in self.study.seeds}
            known = {str(seed): folder for seed, each in spec.items() if (folder := self.store.find("split", each))}
            facts = read_json(next(iter(known.values())) / "split.json") if known else {}
            indices = {seed: f"split/{folder.name}" for seed, folder in known.items()}
            found[name] = {"source": source.location, "kind": source.kind, "indices": indices, **facts}
        return found

    def _do(self, cell: Cell, watcher: Watcher) -> tuple[bool, dict[str, Any]]:
        """Find or make one cell's artefact; whether it was made now, and what it says for the manifest."""
        cell = self.specs.resolved(cell)
        spec = self.specs.of(cell)
        made = self.store.find(cell.kind, spec) is None
        folder = self.store.get_or_make(cell.kind, spec, lambda partial: self._make(cell, partial, watcher))
        seconds = read_json(folder / MANIFEST)["seconds"]  # of making it, whenever that was
        return made, {"artefact": f"{cell.kind}/{folder.name}", "seconds": seconds, **self._note(cell, folder)}

    def _make(self, cell: Cell, folder: Path, watcher: Watcher) -> None:
        from inoculate.study import make, training

        study, here = self.study, (cell.dataset, cell.seed)
        self.device = self.device or self.pick_device()
        data = self.data(*here, watcher)
        job = make.Job(study, data, cell.seed, self.device, watcher.progress)
        choice = study.attacks.get(cell.attack)
        if cell.kind == "fit":
            if cell.arm in study.methods:
                helpers = [self.artefact(helper) for helper in self.specs.helpers(cell)]
                training.make_hardened(folder, job, cell.model, cell.arm, helpers)
                return
            examples = self.specs.examples(cell, "train", study.transfer) if cell.arm == "transferred" else None
            training.make_fit(folder, job, cell.model, cell.arm, self.artefact(examples) if examples else None)
            return
        if cell.kind == "surrogate":
            make.make_choice(folder, job, {model: self.artefact(Cell("fit", *here, model)) for model in study.models})
            return
        fitted = self.artefact(Cell("fit", *here, cell.model, cell.arm))
        if cell.kind == "explain":
            standard = Cell("fit", *here, cell.model)
            clean = self.artefact(Cell("evaluate", *here, cell.model, attack="none"))
            make.make_explanation(folder, job, cell.model, cell.arm, fitted, self.artefact(standard), clean)
        elif choice is None:
            make.make_clean(folder, job, fitted)
        elif cell.kind == "craft":
            tested = data.test.subset(range(study.evaluation.of(len(data.test))))
            make.make_examples(folder, job, choice, fitted, data.train if cell.part == "train" else tested)
        else:
            crafted = self.specs.crafted_on(cell)
            clean = self.artefact(Cell("evaluate", *here, cell.model, cell.arm, attack="none"))
            make.make_verdicts(folder, job, choice, fitted, clean, self.artefact(crafted) if crafted else None)

    def _note(self, cell: Cell, folder: Path) -> dict[str, Any]:
        """Collect what the artefact says for the results; the rest of it, for the manifest, is returned."""
        self._noted.add(cell)
        if cell.kind == "fit":
            self.parameters[cell.model] = int(read_json(folder / "model.json")["parameters"])
            return {"history": read_json(folder / "history.json")}
        if cell.kind == "evaluate":
            self._collect(cell, folder)
            return {}
        if cell.kind == "explain":
            self.explanations.append(folder)
            return {}
        if cell.kind == "surrogate" or self.study.surrogate != MOST_VULNERABLE:
            self.surrogates[cell.dataset] = self.specs.surrogate(cell.dataset, cell.seed)
        if cell.kind == "surrogate":
            return dict(read_json(folder / "choice.json"))
        return {"zero_gradients": read_json(folder / "advset.json")["zero_gradients"]}

    def _collect(self, cell: Cell, folder: Path) -> None:
        right = np.load(folder / "right.npy", allow_pickle=False)
        crafted = self.specs.crafted_on(cell) if cell.attack != "none" and cell.reading != "white-box" else None
        for verdict, mask in zip(read_json(folder / "verdicts.json"), right, strict=True):
            row = Row.measured(
                dataset=cell.dataset,
                model=cell.model,
                arm=cell.arm,
                attack=cell.attack,
                norm=self.study.norm,
                eps=verdict["eps"],
                protocol=f"transfer:{crafted.model}/standard" if crafted else "white-box",
                correct=int(mask.sum()),
                n=len(mask),
                seed=cell.seed,
                seconds=verdict["seconds"],
            )
            self.rows.append(row)
            self.records[row.key] = mask


class _Estimate:
    """Time left, from what cells like those still to come have taken in this run.

    What a standard network took says nothing of the other arms: they may be trained for longer, and stand for longer.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = cells
        self.seen: dict[tuple[str, str, bool], dict[tuple[str, str], float]] = {}

    def add(self, number: int, seconds: float, made: bool) -> None:
        """Take note of how long a cell took."""
        if made:
            cell = self.cells[number]
            self.seen.setdefault(_kind(cell), {})[cell.model, cell.reading] = seconds

    def left(self, number: int) -> Left | None:
        """None until something has been timed."""
        guesses = [self._guess(cell) for cell in self.cells[number:]]
        return Left(sum(each or 0 for each in guesses), None in guesses) if self.seen else None

    def _guess(self, cell: Cell) -> float | None:
        alike = self.seen.get(_kind(cell), {})
        exact = alike.get((cell.model, cell.reading))
        return exact if exact is not None else sum(alike.values()) / len(alike) if alike else None


def _kind(cell: Cell) -> tuple[str, str, bool]:
    return cell.kind, cell.attack, cell.arm == "standard"
