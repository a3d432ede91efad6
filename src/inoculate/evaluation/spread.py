"""One evaluation's batches in several processes or on several machines."""

from __future__ import annotations

import itertools
import os
import pickle
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inoculate.artifacts.executors.base import Executor, Local, Needs, Pool
from inoculate.artifacts.executors.find import find_executor
from inoculate.artifacts.store import Store
from inoculate.core.deadline import with_deadline
from inoculate.core.errors import InputError, one_line
from inoculate.core.modes import device_of
from inoculate.core.pixels import to_float
from inoculate.core.rng import seeded
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.crafters import Crafter, Recipe
from inoculate.evaluation.engine import Settings, batches, measure_batches
from inoculate.evaluation.tally import Tally
from inoculate.models.classifier import VERIFICATION_IMAGES, Classifier, Precision, prepare
from inoculate.models.identity import answers, identity, same_answers

LEAST = 8  # images: fewer are not worth a batch of their own
_CANNOT_BE_PICKLED = (pickle.PicklingError, AttributeError, TypeError, RuntimeError, NotImplementedError, ValueError)
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Parcel:
    """What a worker needs for a batch.

    Fields:
        images: uint8, B×C×H×W.
        labels: int64, B.
        recipe, threats, targets: how adversarial images are made of them.
        seed: of the global random state.
        keeps_images: whether the adversarial images are sent back.
        deadline: on the clock, in seconds; None for no limit.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    recipe: Recipe
    threats: Sequence[Threat]
    targets: Tensor | None
    seed: int
    keeps_images: bool
    deadline: float | None


@dataclass(frozen=True)
class Batch:
    """A batch by its number. Its images are read when it is sent, so that few of them are in memory at a time."""

    number: int
    content: Parcel | Callable[[], Parcel] = field(compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Batch, (self.number, self.content() if callable(self.content) else self.content)


@dataclass(frozen=True)
class MeasuringJob:
    """Measures batches of one dataset with one model, of which a worker must have the driving process's very own.

    Fields:
        store: where the driving process keeps results; workers need nothing of it.
        model, precision, seed: what the classifier is prepared from.
        head: the first images of the data.
        known, answered: what the classifier is, and what it answers.
    """

    store: Store
    model: nn.Module
    head: Dataset
    precision: Precision
    seed: int
    known: Mapping[str, Any]
    answered: Tensor

    @classmethod
    def of(cls, classifier: Classifier, data: Dataset, seed: int, store: Store) -> MeasuringJob:
        few = slice(VERIFICATION_IMAGES)
        head = replace(data, images=data.images[few].clone(), labels=data.labels[few].clone(), sources=None)
        shape = tuple(data.images.shape[1:])
        return cls(
            store, classifier.model, head, classifier.precision, seed, _known(classifier), answers(classifier, shape)
        )

    def start(self, store: Store, progress: object) -> Callable[[Batch], Arrays | None]:
        """The function that measures a batch; None for one that the time is not enough for."""
        with seeded(self.seed, "prepare"):
            classifier = prepare(self.model, self.head, precision=self.precision)
        same = _known(classifier) == self.known
        if not same or not same_answers(answers(classifier, tuple(self.head.images.shape[1:])), self.answered):
            raise InputError(
                "a worker has another model than this process: it needs the same versions of inoculate and torch, and "
                "the same file that defines the model"
            )
        return partial(_measure, classifier, self.head)

    def needs(self, node: Batch) -> Needs:
        """A processor, and a GPU where the model is on one."""
        return Needs(gpus=float(device_of(self.model).type != "cpu"))

    def inputs(self, node: Batch) -> tuple[str, ...]:
        """No artefacts: a batch is sent with its images."""
        return ()


class Spread:
    """The batches of one classifier and its images, measured by an executor's workers."""

    def __init__(self, pool: Pool[Batch, Arrays | None], classifier: Classifier, data: Dataset) -> None:
        self._pool, self._classifier, self._data = pool, classifier, data
        self._numbers = itertools.count()

    def serves(self, classifiers: Sequence[Classifier], data: Dataset, crafter: Crafter, count: int) -> bool:
        """Whether the workers can measure this, and `count` images are enough for several batches."""
        known = [self._classifier] == list(classifiers) and crafter.source in (None, self._classifier)
        return known and data is self._data and crafter.recipe is not None and count >= 2 * LEAST

    def measure(
        self, crafter: Crafter, threats: Sequence[Threat], rows: Tensor, tally: Tally, settings: Settings
    ) -> Generator[Tensor, None, None]:
        """Have the images `rows` measured and write the results into the tally; yields the rows of each batch.

        The work ends at the deadline of `settings`.
        """
        recipe = _require_sendable(crafter.recipe)
        parts = batches(rows, self._batch_size(len(rows), settings.batch_size))
        pack = partial(self._pack, recipe, crafter.targets, threats, settings)
        graph = {Batch(next(self._numbers), partial(pack, part)): part for part in parts}
        for batch, found in self._pool.run(dict.fromkeys(graph, ())):
            if found is None:
                continue
            tally.take(graph[batch], found)
            if settings.journal is not None:
                settings.journal.passes += float(found["passes"].sum())
            yield graph[batch]

    def _batch_size(self, count: int, most: int) -> int:
        """The images of a batch, at most so many, such that every worker gets as many batches as the others.

        What a random model draws depends on the batch: its batches are those of a single process.
        """
        if self._classifier.is_random:
            return most
        workers = self._pool.workers
        rounds = -(-count // (most * workers))
        parts = max(1, min(rounds * workers, count // LEAST))
        return min(most, -(-count // parts))

    def _pack(
        self, recipe: Recipe, targets: Tensor | None, threats: Sequence[Threat], settings: Settings, rows: Tensor
    ) -> Parcel:
        left = None if settings.deadline is None else settings.deadline - time.monotonic()
        return Parcel(
            images=self._data.images[rows].cpu().numpy(),
            labels=self._data.labels[rows].cpu().numpy(),
            recipe=recipe,
            threats=[threat.select(rows) for threat in threats],
            targets=None if targets is None else targets[rows],
            seed=torch.initial_seed(),
            keeps_images=settings.keep_images,
            deadline=None if left is None else time.time() + left,
        )


@contextmanager
def spread_over(
    executor: str | Executor, classifier: Classifier, data: Dataset, seed: int, store: str | os.PathLike[str] | None
) -> Iterator[tuple[Spread | None, str | os.PathLike[str] | None]]:
    """The workers of an executor and the store for results, a temporary one where none is given; none if it is local.

    Raises `InputError` for a model that cannot be sent to another process.
    """
    found = find_executor(executor)
    if isinstance(found, Local):
        yield None, store
        return
    if classifier.device.index:
        raise InputError(f"with an executor every worker chooses its GPU: give device cuda, not {classifier.device}")
    with ExitStack() as stack:
        folder = store or stack.enter_context(TemporaryDirectory(prefix="inoculate-"))
        Path(folder).mkdir(parents=True, exist_ok=True)
        job = MeasuringJob.of(classifier, data, seed, Store(Path(folder).absolute()))
        try:
            pool = stack.enter_context(found.open(job, _Silent()))
        except _CANNOT_BE_PICKLED as error:
            raise InputError(
                f"the model cannot be sent to other processes ({one_line(error)}): define it as a class in a file that "
                "can be imported, or use executor local"
            ) from error
        yield Spread(pool, classifier, data), folder


class _Silent:
    """Is not interested in single batches: the evaluation reports its own progress."""

    def begin(self, node: Batch) -> None: ...

    def progress(self, node: Batch, done: int, total: int, facts: Mapping[str, float]) -> None: ...


def _measure(classifier: Classifier, head: Dataset, batch: Batch) -> Arrays | None:
    """What the classifier makes of a batch, as a `Tally` holds it; None where the time was not enough."""
    parcel = batch.content
    assert isinstance(parcel, Parcel)
    images = torch.from_numpy(parcel.images)
    data, rows = replace(head, images=images, labels=torch.from_numpy(parcel.labels)), torch.arange(len(images))
    clean = to_float(images).to(classifier.dtype) if parcel.keeps_images else None
    tally = Tally(len(images), 1, len(parcel.threats), clean)
    crafter = parcel.recipe.crafter(classifier, parcel.threats, parcel.targets)
    deadline = None if parcel.deadline is None else time.monotonic() + parcel.deadline - time.time()
    with torch.random.fork_rng(), with_deadline(classifier.crafting, deadline):
        torch.manual_seed(parcel.seed)
        done = list(measure_batches([classifier], data, crafter, parcel.threats, [rows], tally))
    return tally.rows(rows) if done else None


def _known(classifier: Classifier) -> dict[str, Any]:
    """The identity of a classifier; a script's classes have another module in another process."""
    found = identity(classifier)
    return {**found, "code": sorted(found["code"].values())}


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
