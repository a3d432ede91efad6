"""One evaluation's batches in several processes or on several machines."""

from __future__ import annotations

import itertools
import os
import pickle
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from inoculate.artifacts.executors.base import Executor, Local, Pool
from inoculate.artifacts.executors.find import find_executor
from inoculate.artifacts.store import Store
from inoculate.core.deadline import with_deadline
from inoculate.core.errors import InputError, one_line
from inoculate.core.pixels import to_float
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.crafters import Crafter, Recipe
from inoculate.evaluation.engine import Settings, batches, depends_on_batch, measure_batches
from inoculate.evaluation.journal import Journal
from inoculate.evaluation.parcels import Arrays, Batch, BatchJob, Parcel, Task
from inoculate.evaluation.tally import Tally
from inoculate.models.classifier import Classifier

LEAST = 8  # images: fewer are not worth a batch of their own
_CANNOT_BE_PICKLED = (pickle.PicklingError, AttributeError, TypeError, RuntimeError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class Measuring:
    """The task to craft adversarial images and show them to classifiers.

    Fields:
        recipe, threats, targets: how adversarial images are made.
        made_by: what the driving process knows of it (see `Crafter`).
        classifiers: the numbers of those that see them.
        source: the number of the one that they are crafted on; None where they are not crafted.
        keeps_images: whether the adversarial images are sent back.
    """

    recipe: Recipe
    made_by: Mapping[str, Any] | None
    threats: Sequence[Threat]
    targets: Tensor | None
    classifiers: Sequence[int]
    source: int | None
    keeps_images: bool

    def __call__(self, classifiers: Sequence[Classifier], data: Dataset, deadline: float | None) -> Arrays | None:
        shown = [classifiers[number] for number in self.classifiers]
        source = shown[0] if self.source is None else classifiers[self.source]
        clean = to_float(data.images).to(shown[0].dtype) if self.keeps_images else None
        tally, rows = Tally(len(data), len(shown), len(self.threats), clean), torch.arange(len(data))
        crafter = self.recipe.crafter(source, self.threats, self.targets)
        if crafter.made_by != self.made_by:
            raise InputError(
                f"a worker has another version of the attack {self.recipe.attack!r} than this process: it needs the "
                "same files that define it, and this process those that it has loaded: start again"
            )
        with with_deadline(source.crafting, deadline):
            done = list(measure_batches(shown, data, crafter, self.threats, [rows], tally))
        return tally.rows(rows) if done else None


class Spread:
    """Batches of some images, worked on by an executor's workers, who have some classifiers."""

    def __init__(self, pool: Pool[Batch, Arrays | None], classifiers: Sequence[Classifier], data: Dataset) -> None:
        self._pool, self._classifiers, self._data = pool, list(classifiers), data
        self._numbers = itertools.count()

    def serves(self, classifiers: Sequence[Classifier], data: Dataset, crafter: Crafter, count: int) -> bool:
        """Whether the workers can measure this, and `count` images are enough for several batches."""
        needed = [*classifiers, *([crafter.source] if crafter.source else [])]
        known = data is self._data and all(each in self._classifiers for each in needed)
        return known and crafter.recipe is not None and count >= 2 * LEAST

    def measure(
        self,
        classifiers: Sequence[Classifier],
        crafter: Crafter,
        threats: Sequence[Threat],
        rows: Tensor,
        tally: Tally,
        settings: Settings,
    ) -> Generator[Tensor, None, None]:
        """Have the images `rows` measured and write the results into the tally; yields the rows of each batch.

        The work ends at the deadline of `settings`.
        """
        recipe, number = _require_sendable(crafter.recipe), self._classifiers.index
        shown = [number(each) for each in classifiers]
        source = None if crafter.source is None else number(crafter.source)

        def task(part: Tensor) -> Task:
            targets = None if crafter.targets is None else crafter.targets[part]
            selected = [threat.select(part) for threat in threats]
            return Measuring(recipe, crafter.made_by, selected, targets, shown, source, settings.keep_images)

        # Where results depend on the batch, the batches are those of a single process.
        least = settings.batch_size if depends_on_batch(classifiers, crafter) else LEAST
        for part, found in self.run(task, rows, settings.batch_size, least, settings.deadline):
            tally.take(part, found)
            if settings.journal is not None:
                settings.journal.passes += float(found["passes"].sum())
            yield part

    def run(
        self, task: Callable[[Tensor], Task], rows: Tensor, most: int, least: int, deadline: float | None = None
    ) -> Generator[tuple[Tensor, Arrays], None, None]:
        """Have the task of each batch of the images `rows` done; yields their rows and what was found, as it arrives.

        A batch has at most `most` images and, where there are so many, at least `least`. One that the deadline (on
        `time.monotonic`) was too early for is left out.
        """
        parts = batches(rows, self._batch_size(len(rows), most, least))
        graph = {Batch(next(self._numbers), partial(self._pack, task, deadline, part)): part for part in parts}
        for batch, found in self._pool.run(dict.fromkeys(graph, ())):
            if found is not None:
                yield graph[batch], found

    def _batch_size(self, count: int, most: int, least: int) -> int:
        """The images of a batch, such that every worker gets as many batches as the others."""
        workers = self._pool.workers
        rounds = -(-count // (most * workers))
        parts = max(1, min(rounds * workers, count // least))
        return most if least >= most else min(most, -(-count // parts))

    def _pack(self, task: Callable[[Tensor], Task], deadline: float | None, rows: Tensor) -> Parcel:
        return Parcel(
            images=self._data.images[rows].cpu().numpy(),
            labels=self._data.labels[rows].cpu().numpy(),
            task=task(rows),
            seed=torch.initial_seed(),
            deadline=None if deadline is None else time.time() + deadline - time.monotonic(),
        )


def in_batches(
    task: Callable[[Tensor], Task],
    rows: Tensor,
    most: int,
    classifier: Classifier,
    data: Dataset,
    settings: Settings,
    deadline: float | None,
) -> Generator[tuple[Tensor, Arrays], None, None]:
    """Do the task of each batch of at most `most` of the images `rows`, by the workers of `settings` if there are any.

    Yields the rows of each batch and what was found, in any order, until the deadline (on `time.monotonic`).
    """
    if settings.spread is not None and len(rows) > 1:
        yield from settings.spread.run(task, rows, most, 1, deadline)
        return
    for part in batches(rows, most):
        found = task(part)([classifier], data.subset(part), deadline)
        if found is None:
            return
        yield part, found


@contextmanager
def spread_over(
    executor: str | Executor,
    store: str | os.PathLike[str] | None,
    classifiers: Sequence[Classifier],
    data: Dataset,
    settings: Settings,
) -> Iterator[Settings]:
    """The settings with the journal of a store, and with the workers of an executor unless it is local.

    The workers have the classifiers, and end with the block. Without a store theirs is a temporary one. Raises
    `InputError` for a model that cannot be sent to another process.
    """
    found = find_executor(executor)
    if isinstance(found, Local):
        yield replace(settings, journal=Journal.at(store))
        return
    for each in classifiers:
        if each.device.index:
            raise InputError(f"with an executor every worker chooses its GPU: give device cuda, not {each.device}")
    with ExitStack() as stack:
        folder = store or stack.enter_context(TemporaryDirectory(prefix="inoculate-"))
        Path(folder).mkdir(parents=True, exist_ok=True)
        known = list(dict.fromkeys(classifiers))
        job = BatchJob.of(known, data, settings.seed, Store(Path(folder).absolute()))
        try:
            pool = stack.enter_context(found.open(job, _Silent()))
        except _CANNOT_BE_PICKLED as error:
            raise InputError(
                f"the model cannot be sent to other processes ({one_line(error)}): define it as a class in a file that "
                "can be imported, or use executor local"
            ) from error
        yield replace(settings, journal=Journal.at(folder), spread=Spread(pool, known, data))


class _Silent:
    """Is not interested in single batches: the evaluation reports its own progress."""

    def begin(self, node: Batch) -> None: ...

    def progress(self, node: Batch, done: int, total: int, facts: Mapping[str, float]) -> None: ...


def _require_sendable(recipe: Recipe | None) -> Recipe:
    """Raise `InputError` for an attack that cannot be sent to another process."""
    assert recipe is not None
    try:
        pickle.dumps(recipe)
    except _CANNOT_BE_PICKLED as error:
        raise InputError(
            f"the attack {recipe.attack!r} cannot be sent to other processes ({one_line(error)}): define it as a class "
            "in a file that can be imported, or use executor local"
        ) from error
    return recipe
