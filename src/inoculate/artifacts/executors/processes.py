"""Several processes on this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic

from inoculate.artifacts.executors.base import Graph, Job, Made, N, Pool, R, Watch
from inoculate.artifacts.executors.messages import DONE, FAILED, Listener, Reporter, log_level, portable, sent_log
from inoculate.artifacts.executors.schedule import MOST_ATTEMPTS, Schedule
from inoculate.artifacts.executors.threads import available_cores, limit_threads
from inoculate.core.errors import InputError, one_line

_STARTED, _READY = "started", "ready"
_PATIENCE = 3.0  # seconds that a worker has to end before it is killed


class Processes:
    """`workers` processes on this machine; the processors are divided among them, and so are the GPUs.

    A process that dies is replaced, and its node begun again.
    """

    def __init__(self, workers: int | None = None) -> None:
        """By default as many as there are processors."""
        self.workers = workers or available_cores()

    @contextlib.contextmanager
    def open(self, job: Job[N, R], watch: Watch[N]) -> Iterator[Pool[N, R]]:
        pool = _ProcessPool(self.workers, job, watch)
        try:
            yield pool
        finally:
            pool.end()


class _ProcessPool(Generic[N, R]):
    """At most `workers` processes, begun when there are nodes for them."""

    def __init__(self, workers: int, job: Job[N, R], watch: Watch[N]) -> None:
        self.workers, self._job, self._watch, self._listener = workers, job, watch, Listener(watch)
        self._pool: list[_Worker[N]] = []
        self._content = pickle.dumps(job)  # what cannot be sent raises before there is a process

    def run(self, graph: Graph[N]) -> Made[N, R]:
        schedule = Schedule(graph)
        self._grow(graph)
        while schedule.left:
            for worker in self._pool:
                if worker.is_idle and (node := schedule.take()) is not None:
                    worker.begin(node)
                    self._watch.begin(node)
            for ready in multiprocessing.connection.wait([worker.connection for worker in self._pool]):
                number = next(n for n, worker in enumerate(self._pool) if worker.connection is ready)
                worker = self._pool[number]
                try:
                    kind, content = _receive(worker.connection)
                except (EOFError, OSError):
                    if worker.node is not None:
                        schedule.lose(worker.node, worker.cause())
                    self._pool[number] = worker.replaced()
                    continue
                if kind == FAILED:
                    raise content
                if kind == _STARTED:
                    worker.send(self._content)
                elif kind == _READY:
                    worker.is_ready = True
                elif kind == DONE and worker.node is not None:
                    node, worker.node = worker.node, None
                    schedule.finish(node)
                    yield node, content
                else:
                    self._listener.hear(worker.node, kind, content)

    def _grow(self, graph: Graph[N]) -> None:
        """Begin the processes that are missing."""
        wanted = range(len(self._pool), min(self.workers, len(graph)))
        if wanted:
            threads, gpus = max(1, available_cores() // self.workers), _visible_gpus(graph, self._job) or [""]
            self._pool += [_Worker(_Setup(threads, log_level(), gpus[n % len(gpus)])) for n in wanted]

    def end(self) -> None:
        """End every process."""
        for worker in self._pool:
            worker.process.terminate()
        for worker in self._pool:
            worker.end()


@dataclass(frozen=True)
class _Setup:
    """What a worker process sets before it works."""

    threads: int
    log_level: int
    gpu: str


class _Worker(Generic[N]):
    """A process, and the node that it makes, if any."""

    def __init__(self, setup: _Setup, failures: int = 0) -> None:
        """failures: how many processes before this one ended before they were ready."""
        self.node: N | None = None
        self.is_ready = False
        self._failures, self._setup = failures, setup
        context = multiprocessing.get_context("spawn")  # a forked process cannot use what torch's threads hold
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs, setup), daemon=False)
        self.process.start()
        theirs.close()

    @property
    def is_idle(self) -> bool:
        return self.is_ready and self.node is None

    def begin(self, node: N) -> None:
        self.node = node
        self.send(pickle.dumps(node))

    def send(self, content: bytes) -> None:
        """Send a pickled message."""
        with contextlib.suppress(OSError):  # the process has just died, which `_receive` tells
            self.connection.send_bytes(content)

    def cause(self) -> str:
        """Why the process ended."""
        self.process.join(_PATIENCE)
        code = self.process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def replaced(self) -> _Worker[N]:
        """A new process in place of this one, which has ended; raises `InputError` if it could not even start."""
        cause, failures = self.cause(), 0 if self.is_ready else self._failures + 1
        self.end()
        if failures and (self.process.exitcode == 1 or failures == MOST_ATTEMPTS):
            raise InputError(
                f"a worker process could not start ({cause}): in a script, call this below if __name__ == '__main__'"
            )
        return _Worker(self._setup, failures)

    def end(self) -> None:
        """Wait for the process, which has been told to end."""
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


def _receive(connection: Connection) -> Any:
    """What the process at the other end sent.

    Messages are pickled as values: under the pickler that a connection uses by itself, tensors would share memory.
    """
    return ForkingPickler.loads(connection.recv_bytes())


def _serve(connection: Connection, setup: _Setup) -> None:
    """The life of a worker process: make the nodes that arrive, until the driving process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the driving one ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if setup.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = setup.gpu
    limit_threads(setup.threads)
    guard = threading.Lock()

    def send(kind: str, content: Any) -> None:
        message = pickle.dumps((kind, content))
        with guard:
            connection.send_bytes(message)

    with sent_log(send, setup.log_level), contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            send(_STARTED, None)
            job = _receive_job(connection)
            work = job.start(job.store, Reporter(send))
            send(_READY, None)
            while True:
                send(DONE, work(_receive(connection)))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except BaseException as error:
            send(FAILED, portable(error))


def _receive_job(connection: Connection) -> Job[Any, Any]:
    """The job. Raises `InputError` where this process does not know a class of it."""
    try:
        job: Job[Any, Any] = _receive(connection)
    except (AttributeError, ImportError) as error:
        raise InputError(
            f"another process cannot read what it is sent ({one_line(error)}): define classes and functions in a file "
            "that can be imported, not in a notebook"
        ) from error
    return job


def _end_with_parent() -> None:
    """End this process, whatever it does, when the one that started it has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _visible_gpus(graph: Graph[N], job: Job[N, Any]) -> list[str]:
    """The GPUs that this process sees, if the graph needs any."""
    if not any(job.needs(node).gpus for node in graph):
        return []
    import torch

    return (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))).split(",")
