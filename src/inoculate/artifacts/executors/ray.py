"""A Ray cluster: one task per node of the graph."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any, Generic

from inoculate.artifacts.executors.base import Graph, Job, Made, N, Pool, R, Watch
from inoculate.artifacts.executors.messages import LOG, Listener, log_level
from inoculate.artifacts.executors.ray_worker import Answer, Mailbox, Order, make
from inoculate.artifacts.executors.schedule import Schedule
from inoculate.artifacts.executors.threads import available_cores
from inoculate.artifacts.executors.transfer import identify, pack, unpack
from inoculate.core.errors import InputError, one_line
from inoculate.core.extras import require

_AHEAD = 2  # tasks in flight for every processor of the cluster
_PATIENCE = 10.0  # seconds that a cluster has to answer
_INTERVAL = 0.5  # seconds between two looks at the workers' messages and at the size of the cluster
MOST_LOSSES = 20  # of one node: machines may be lost for reasons of their own
_PASSED_ON = ("INOCULATE_DATA", "INOCULATE_CACHE", "HF_HOME")


class Ray:
    """A Ray cluster at `address`, or the one that `RAY_ADDRESS` names or that runs here, or one of this machine's own.

    A task declares the processors and GPUs of its node and is begun again when its machine is lost. The store is a
    folder that all machines share; a machine that does not see it gets what its tasks need from this process and
    returns what they made. Raises `InputError` where Ray is not installed or does not answer.
    """

    def __init__(self, address: str | None = None) -> None:
        require("ray", "ray", "executor ray")
        self.address = address

    @property
    def workers(self) -> int:
        """The processors of the cluster; of this machine while it is not connected."""
        import ray

        return max(1, int(ray.cluster_resources().get("CPU", 1))) if ray.is_initialized() else available_cores()

    @contextlib.contextmanager
    def open(self, job: Job[N, R], watch: Watch[N]) -> Iterator[Pool[N, R]]:
        with _connected(self.address):
            flights = _Flights(job, watch)
            try:
                yield flights
            finally:
                flights.cancel()


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """A connection to the cluster, closed afterwards unless the caller had opened it."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _check_listening(address)
        ray.init(address=address, logging_level="error", log_to_driver=True)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f"the Ray cluster {address or ''} does not answer ({one_line(error)}): check its address"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_listening(address: str | None) -> None:
    """Raise an `OSError` at once where nobody listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


class _Flights(Generic[N, R]):
    """The tasks that are submitted and not done."""

    def __init__(self, job: Job[N, R], watch: Watch[N]) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._schedule, self._job, self._listener = Schedule[N]({}), job, Listener(watch)
        self._nodes: dict[Any, N] = {}  # by the reference to the result
        self._packed: dict[str, Any] | None = None  # references to inputs by name, once a machine has asked for them
        self._looked, self._most = -_INTERVAL, 1
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        self._make, self._sent_job = ray.remote(make), ray.put(job)
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        self._order = Order(uuid.uuid4().hex, identify(job.store), os.getcwd(), environment, log_level())

    @property
    def workers(self) -> int:
        """The processors of the cluster."""
        import ray

        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def run(self, graph: Graph[N]) -> Made[N, R]:
        self._schedule = Schedule(graph, MOST_LOSSES)
        while self._schedule.left:
            self.look()
            self.submit()
            yield from self.landed()

    def submit(self) -> None:
        """Submit what can be made, up to so many tasks for each processor."""
        while len(self._nodes) < self._most and (node := self._schedule.take()) is not None:
            self._send(node)

    def _send(self, node: N) -> None:
        import ray

        inputs = None
        if self._packed is not None:
            for name in (inputs := dict.fromkeys(self._job.inputs(node))):
                if name not in self._packed:
                    self._packed[name] = ray.put(pack(self._job.store, name))
                inputs[name] = self._packed[name]
        needs = self._job.needs(node)
        task = self._make.options(num_cpus=needs.cpus, num_gpus=needs.gpus, max_retries=0)
        self._nodes[task.remote(self._sent_job, self._order, node, needs.cpus, self._mailbox, inputs)] = node

    def landed(self) -> Made[N, R]:
        """The nodes that are done, waiting a moment for the first; those whose machine was lost are begun again."""
        import ray

        done, _ = ray.wait(list(self._nodes), timeout=_INTERVAL)
        for reference in done:
            try:
                answer: Answer = ray.get(reference)
                self._listen()  # what came before the end is told before it
            except ray.exceptions.RayTaskError as error:  # before the step began: it returns its own errors
                raise InputError(
                    f"a machine of the cluster cannot begin a step ({str(error).strip().splitlines()[-1]}): it needs "
                    "the same versions of inoculate and of Python as this process"
                ) from error
            except ray.exceptions.RayError as error:  # the worker, its machine or the result was lost
                self._schedule.lose(self._nodes.pop(reference), one_line(error))
                continue
            node = self._nodes.pop(reference)
            if answer.error is not None:
                raise answer.error
            if answer.lacks_inputs:
                self._packed = self._packed or {}
                self._send(node)
                continue
            for name, content in answer.packed.items():
                unpack(self._job.store, name, content)
            self._schedule.finish(node)
            yield node, answer.made

    def look(self) -> None:
        """See every now and then how large the cluster is, and what the workers report."""
        if time.monotonic() - self._looked > _INTERVAL:
            self._looked = time.monotonic()
            self._most = _AHEAD * self.workers
            self._listen()

    def _listen(self) -> None:
        """Pass on what the workers report of nodes under way."""
        import ray

        under_way = {*self._nodes.values()}
        for node, kind, content in ray.get(self._mailbox.take.remote()):
            if node in under_way or kind == LOG:
                self._listener.hear(node, kind, content)

    def cancel(self) -> None:
        """End what is under way."""
        import ray

        for reference in self._nodes:
            ray.cancel(reference, force=True)
        ray.kill(self._mailbox)
