"""What executors share. A graph of artefacts says what is to be made; an executor decides where.

A graph is a mapping from each node to the nodes that it depends on, in an order in which they can be made. A node is
any hashable value that can be pickled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping
from typing import NamedTuple, Protocol, TypeVar

from inoculate.artifacts.store import Store

N = TypeVar("N")
N_contra = TypeVar("N_contra", contravariant=True)
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


Work = Callable[[N], Artefact | None]
Made = Generator[tuple[N, Artefact | None], None, None]  # nodes and their artefacts, as they are done


class Job(Protocol[N_contra]):
    """How to make the artefacts of a graph. It is pickled and sent to every worker."""

    @property
    def store(self) -> Store:
        """Where the artefacts are."""

    def start(self, store: Store, progress: Progress) -> Work[N_contra]:
        """Called once in each worker: the function that makes one node's artefact in `store`, or finds it there.

        It returns None for a node without an artefact. Whatever it keeps is kept for the next node.
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


class Executor(Protocol):
    """Makes the artefacts of a graph."""

    @property
    def workers(self) -> int:
        """How many nodes are made at once, as far as that is known."""

    def run(self, graph: Graph[N], job: Job[N], watch: Watch[N]) -> Made[N]:
        """Yield each node and its artefact as soon as it is made, after those that it depends on.

        What a node raises is raised here. When the iterator ends or is closed, no worker is left.
        """


class Local:
    """One node after the other, in this process."""

    workers = 1

    def run(self, graph: Graph[N], job: Job[N], watch: Watch[N]) -> Made[N]:
        current: list[N] = []
        work = job.start(job.store, lambda done, total, facts: watch.progress(current[-1], done, total, facts))
        for node in graph:
            current[:] = [node]
            watch.begin(node)
            yield node, work(node)
