"""Several processes on this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Generic

from inoculate.artifacts.executors.base import Graph, Job, Made, N, Watch
from inoculate.artifacts.executors.messages import DONE, FAILED, Listener, Reporter, log_level, portable, sent_log
from inoculate.artifacts.executors.schedule import MOST_ATTEMPTS, Schedule
from inoculate.artifacts.executors.threads import available_cores, limit_threads
from inoculate.core.errors import InputError

_READY = "ready"
_PATIENCE = 3.0  # seconds that a worker has to end before it is killed


class Processes:
    """`workers` processes on this machine; the processors are divided among them, and so are the GPUs.

    A process that dies is replaced, and its node begun again.
    """

    def __init__(self, workers: int | None = None) -> None:
        """By default as many as there are processors."""
        self.workers = workers or available_cores()

    def run(self, graph: Graph[N], job: Job[N], watch: Watch[N]) -> Made[N]:
        schedule, listener = Schedule(graph), Listener(watch)
        threads, gpus = max(1, available_cores() // self.workers), _visible_gpus(graph, job) or [""]
        setups = [_Setup(threads, log_level(), gpus[n % len(gpus)]) for n in range(min(self.workers, len(graph)))]
        pool = [_Worker(job, setup) for setup in setups]
        try:
            while schedule.left:
                for worker in pool:
                    if worker.is_idle and (node := schedule.take()) is not None:
                        worker.begin(node)
                        watch.begin(node)
                for ready in multiprocessing.connection.wait([worker.connection for worker in pool]):
                    number = next(n for n, worker in enumerate(pool) if worker.connection is ready)
                    worker = pool[number]
                    try:
                        kind, content = worker.connection.recv()
                    except (EOFError, OSError):
                        if worker.node is not None:
                            schedule.lose(worker.node, worker.cause())
                        pool[number] = worker.replaced()
                        continue
                    if kind == FAILED:
                        raise content
                    if kind == _READY:
                        worker.is_ready = True
                    elif kind == DONE and worker.node is not None:
                        node, worker.node = worker.node, None
                        schedule.finish(node)
                        yield node, content
                    else:
                        listener.hear(worker.node, kind, content)
        finally:
            for worker in pool:
                worker.process.terminate()
            for worker in pool:
                worker.end()


@dataclass(frozen=True)
class _Setup:
    """What a worker process sets before it works."""

    threads: int
    log_level: int
    gpu: str


class _Worker(Generic[N]):
    """A process, and the node that it makes, if any."""

    def __init__(self, job: Job[N], setup: _Setup, failures: int = 0) -> None:
        """failures: how many processes before this one ended before they were ready."""
        self.node: N | None = None
        self.is_ready = False
        self._failures, self._arguments = failures, (job, setup)
        context = multiprocessing.get_context("spawn")  # a forked process cannot use what torch's threads hold
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs, job, setup), daemon=False)
        self.process.start()
        theirs.close()

    @property
    def is_idle(self) -> bool:
        return self.is_ready and self.node is None

    def begin(self, node: N) -> None:
        self.node = node
        with contextlib.suppress(OSError):  # it has just died, which `recv` tells
            self.connection.send(node)

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
        return _Worker(*self._arguments, failures)

    def end(self) -> None:
        """Wait for the process, which has been told to end."""
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


def _serve(connection: Connection, job: Job[Any], setup: _Setup) -> None:
    """The life of a worker process: make the nodes that arrive, until the driving process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the driving one ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if setup.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = setup.gpu
    limit_threads(setup.threads)
    guard = threading.Lock()

    def send(kind: str, content: Any) -> None:
        with guard:
            connection.send((kind, content))

    with sent_log(send, setup.log_level), contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            work = job.start(job.store, Reporter(send))
            send(_READY, None)
            while True:
                send(DONE, work(connection.recv()))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except BaseException as error:
            send(FAILED, portable(error))


def _end_with_parent() -> None:
    """End this process, whatever it does, when the one that started it has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _visible_gpus(graph: Graph[N], job: Job[N]) -> list[str]:
    """The GPUs that this process sees, if the graph needs any."""
    if not any(job.needs(node).gpus for node in graph):
        return []
    import torch

    return (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))).split(",")
