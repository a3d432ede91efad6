"""Which nodes of a graph can be made next."""

from __future__ import annotations

import heapq
from typing import Generic

from inoculate.artifacts.executors.base import Graph, N
from inoculate.core.errors import InputError

MOST_ATTEMPTS = 5  # of a node whose worker is lost: by then it is the node that ends its workers


class Schedule(Generic[N]):
    """The state of a graph: the first node of the graph's order whose dependencies are done is next."""

    def __init__(self, graph: Graph[N], most_attempts: int = MOST_ATTEMPTS) -> None:
        self._nodes, self._most_attempts = list(graph), most_attempts
        self._numbers = {node: number for number, node in enumerate(self._nodes)}
        self._missing = {node: {each for each in graph[node] if each in graph} for node in graph}
        self._dependents: dict[N, list[N]] = {node: [] for node in graph}
        for node, missing in self._missing.items():
            for each in missing:
                self._dependents[each].append(node)
        self._ready = [number for number, node in enumerate(self._nodes) if not self._missing[node]]
        self._losses: dict[N, int] = {}
        self.left = len(self._nodes)

    def take(self) -> N | None:
        """The next node to begin; None while there is none."""
        return self._nodes[heapq.heappop(self._ready)] if self._ready else None

    def finish(self, node: N) -> None:
        """A node is done."""
        self.left -= 1
        for each in self._dependents[node]:
            self._missing[each].discard(node)
            if not self._missing[each]:
                heapq.heappush(self._ready, self._numbers[each])

    def lose(self, node: N, cause: str) -> None:
        """The worker of a node was lost: it is begun again. Raises `InputError` if that has happened too often."""
        self._losses[node] = self._losses.get(node, 0) + 1
        if self._losses[node] >= self._most_attempts:
            raise InputError(
                f"{self._most_attempts} workers were lost at the same step ({cause}): if memory ran out, use fewer "
                "workers or smaller batches, then run the same command again to continue"
            )
        heapq.heappush(self._ready, self._numbers[node])
