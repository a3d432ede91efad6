"""Batches of images as they are sent to other processes, and what is done with them there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from inoculate.artifacts.executors.base import Needs
from inoculate.artifacts.specs import package_digest
from inoculate.artifacts.store import Store
from inoculate.core.errors import InputError
from inoculate.core.modes import device_of
from inoculate.core.rng import seeded
from inoculate.data.dataset import Dataset
from inoculate.models.classifier import VERIFICATION_IMAGES, Classifier, Precision, prepare
from inoculate.models.identity import Answers, answers, identity

Arrays = Mapping[str, NDArray[Any]]


class Task(Protocol):
    """What is done with a batch; it can be pickled.

    Called with the job's classifiers, the images of the batch and a deadline (on `time.monotonic`, None for no limit).
    Returns arrays with a row for each image, or None where the time was not enough.
    """

    def __call__(self, classifiers: Sequence[Classifier], data: Dataset, deadline: float | None) -> Arrays | None: ...


@dataclass(frozen=True)
class Parcel:
    """What a worker needs for a batch.

    Fields:
        images: uint8, B×C×H×W.
        labels: int64, B.
        task: what is done with them.
        seed: of the global random state.
        deadline: on the clock, in seconds; None for no limit.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    task: Task
    seed: int
    deadline: float | None


@dataclass(frozen=True)
class Batch:
    """A batch by its number. Its images are read when it is sent, so that few of them are in memory at a time."""

    number: int
    content: Parcel | Callable[[], Parcel] = field(compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Batch, (self.number, self.content() if callable(self.content) else self.content)


@dataclass(frozen=True)
class SentModel:
    """A model, and by what a worker sees that it has the driving process's very own.

    Fields:
        model, precision: what the classifier is prepared from.
        known, answered: what the classifier is, and what it answers.
    """

    model: nn.Module
    precision: Precision
    known: Mapping[str, Any]
    answered: Answers

    @classmethod
    def of(cls, classifier: Classifier, head: Dataset) -> SentModel:
        return cls(classifier.model, classifier.precision, identity(classifier), answers(classifier, head))

    def prepared(self, head: Dataset, seed: int) -> Classifier:
        """The classifier. Raises `InputError` where it is another one than the driving process has."""
        with seeded(seed, "prepare"):
            classifier = prepare(self.model, head, precision=self.precision)
        if identity(classifier) != self.known or not answers(classifier, head).resembles(self.answered):
            raise InputError(
                "a worker has another model than this process: it needs the same versions of inoculate and torch, and "
                "the same file that defines the model"
            )
        return classifier


@dataclass(frozen=True)
class BatchJob:
    """Does tasks on batches of one dataset, with some models.

    Fields:
        store: where the driving process keeps results; workers need nothing of it.
        models: what the tasks' classifiers are prepared from.
        head: the first images of the data.
        seed: with which the classifiers are prepared.
        code: the digest of this package.
    """

    store: Store
    models: Sequence[SentModel]
    head: Dataset
    seed: int
    code: str

    @classmethod
    def of(cls, classifiers: Sequence[Classifier], data: Dataset, seed: int, store: Store) -> BatchJob:
        few = slice(VERIFICATION_IMAGES)
        head = replace(data, images=data.images[few].clone(), labels=data.labels[few].clone(), sources=None)
        return cls(store, [SentModel.of(each, head) for each in classifiers], head, seed, package_digest())

    def start(self, store: Store, progress: object) -> Callable[[Batch], Arrays | None]:
        """The function that does the task of a batch; None for one that the time is not enough for.

        Raises `InputError` where this process has other code or other models than the driving one.
        """
        if package_digest() != self.code:
            raise InputError(
                "a worker has another version of inoculate than this process: install the same one on all machines, "
                "and run the same command again to continue"
            )
        return partial(_do, [each.prepared(self.head, self.seed) for each in self.models], self.head)

    def needs(self, node: Batch) -> Needs:
        """A processor, and a GPU where a model is on one."""
        return Needs(gpus=float(any(device_of(each.model).type != "cpu" for each in self.models)))

    def inputs(self, node: Batch) -> tuple[str, ...]:
        """No artefacts: a batch is sent with its images."""
        return ()


def _do(classifiers: Sequence[Classifier], head: Dataset, batch: Batch) -> Arrays | None:
    """What the task of a batch finds; None where the time was not enough."""
    parcel = batch.content
    assert isinstance(parcel, Parcel)
    data = replace(head, images=torch.from_numpy(parcel.images), labels=torch.from_numpy(parcel.labels))
    deadline = None if parcel.deadline is None else time.monotonic() + parcel.deadline - time.time()
    with torch.random.fork_rng():
        torch.manual_seed(parcel.seed)
        return parcel.task(classifiers, data, deadline)
