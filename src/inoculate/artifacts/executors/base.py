"""What executors share. A graph says what is to be made, an artefact or a value; an executor decides where.

A graph is a mapping from each node to the nodes that it depends on, in an order in which they can be made. A node is
any hashable value that can be pickled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, NamedTuple, Protocol, TypeVar

from inoculate.artifacts.store import Store

N = TypeVar("N")
N_contra = TypeVar("N_contra", contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Graph = Mapping[N, Collection[N]]
Progress = Callable[[int, int, Mapping[str, float]], None]  # (units done, in all, facts such as the loss)


class Artefact(NamedTuple):
    """An artefact as `<kind>/<fingerprint>`, whether it was made now or found, and the seconds that took."""

    name: str
    made: bool
    seconds: float


class Needs(NamedTuple):
    """The processors and GPUs that a node occupies while it is made."""

    cpus: int = 1
    gpus: float = 0


Work = Callable[[N], R]
Made = Generator[tuple[N, R], None, None]  # nodes and what was made of them, as they are done


class Job(Protocol[N_contra, R_co]):
    """How to make what a graph asks for. It is pickled and sent to every worker."""

    @property
    def store(self) -> Store:
        """Where the artefacts are."""

    def start(self, store: Store, progress: Progress) -> Work[N_contra, R_co]:
        """Called once in each worker: the function that makes one node, where it is an artefact in `store`.

        What it returns is pickled and sent to the driving process. Whatever it keeps is kept for the next node.
        """

    def needs(self, node: N_contra) -> Needs:
        """What a node occupies."""

    def inputs(self, node: N_contra) -> Collection[str]:
        """The names of all artefacts that a worker with an empty store needs for a node whose dependencies are done."""


class Watch(Protocol[N_contra]):
    """Is told in the caller's process how the work goes."""

    def begin(self, node: N_contra) -> None:
        """A node begins. One whose worker was lost begins again."""

    def progress(self, node: N_contra, done: int, total: int, facts: Mapping[str, float]) -> None:
        """A node has done so many of its units."""


class Pool(Protocol[N, R_co]):
    """The workers of one job, which make one graph after the other."""

    @property
    def workers(self) -> int:
        """How many nodes are made at once, as far as that is known."""

    def run(self, graph: Graph[N]) -> Made[N, R_co]:
        """Yield each node and what was made of it as soon as it is done, after those that it depends on.

        What a node raises is raised here. After that, or if the iterator is closed early, no other graph can be made.
        """


class Executor(Protocol):
    """Makes what graphs ask for."""

    @property
    def workers(self) -> int:
        """How many nodes are made at once, as far as that is known."""

    def open(self, job: Job[N, R], watch: Watch[N]) -> AbstractContextManager[Pool[N, R]]:
        """The workers of a job, begun when there is a graph to make. None is left when the block ends."""


class Local:
    """One node after the other, in this process."""

    workers = 1

    @contextmanager
    def open(self, job: Job[N, R], watch: Watch[N]) -> Iterator[Pool[N, R]]:
        yield _Here(job, watch)


class _Here(Generic[N, R]):
    """This process alone."""

    workers = 1

    def __init__(self, job: Job[N, R], watch: Watch[N]) -> None:
        self._job, self._watch = job, watch
        self._current: list[N] = []
        self._work: Work[N, R] | None = None

    def run(self, graph: Graph[N]) -> Made[N, R]:
        self._work = self._work or self._job.start(self._job.store, self._progress)
        for node in graph:
            self._current[:] = [node]
            self._watch.begin(node)
            yield node, self._work(node)

    def _progress(self, done: int, total: int, facts: Mapping[str, float]) -> None:
        self._watch.progress(self._current[-1], done, total, facts)
