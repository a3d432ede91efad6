"""What runs on the machines of a Ray cluster."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from inoculate.artifacts.executors.base import Job, Work
from inoculate.artifacts.executors.messages import BEGUN, Reporter, Send, portable, sent_log
from inoculate.artifacts.executors.threads import limit_threads
from inoculate.artifacts.executors.transfer import identity_of, names, pack, unpack
from inoculate.artifacts.store import Store


class Mailbox:
    """Messages of the workers until the driving process takes them; an actor on its machine."""

    def __init__(self) -> None:
        self._messages: list[Any] = []

    def add(self, message: Any) -> None:
        self._messages.append(message)

    def take(self) -> list[Any]:
        messages, self._messages = self._messages, []
        return messages


@dataclass(frozen=True)
class Order:
    """What all tasks of a run are told.

    token: names the run. identity: of the driving process's store. folder: where relative paths begin. environment:
    variables for a machine that has not set them itself.
    """

    token: str
    identity: str
    folder: str
    environment: Mapping[str, str]
    log_level: int


class Answer(NamedTuple):
    """What a task returns: what it made of the node, or an error, or that it needs its inputs sent.

    packed: new artefacts, where the driving process does not see them.
    """

    made: Any = None
    error: BaseException | None = None
    lacks_inputs: bool = False
    packed: Mapping[str, bytes] = {}


_started: dict[str, tuple[Store, Work[Any, Any]]] = {}  # of this process, by the token of the run
_current: list[Send] = []  # where the node under way reports


def make(
    job: Job[Any, Any], order: Order, node: Any, cpus: int, mailbox: Any, inputs: Mapping[str, Any] | None
) -> Answer:
    """The task: make a node. inputs: references to packed artefacts; None if they have not been packed."""
    import ray

    sent: list[Any] = []

    def send(kind: str, content: Any) -> None:
        sent[:] = [mailbox.add.remote((node, kind, content))]

    shared = identity_of(job.store) == order.identity
    if not shared and inputs is None:
        return Answer(lacks_inputs=True)
    _current[:] = [send]
    send(BEGUN, None)
    with sent_log(send, order.log_level):
        try:
            store, work = _start(job, order, cpus, shared)
            return Answer(work(node)) if shared else _make_here(store, work, node, inputs or {})
        except Exception as error:
            return Answer(error=portable(error))
        finally:
            ray.wait(sent, timeout=1)  # messages arrive in the order in which they are sent, and before the answer


def _start(job: Job[Any, Any], order: Order, cpus: int, shared: bool) -> tuple[Store, Work[Any, Any]]:
    """The store and the function of this run, begun by the first task in this process."""
    limit_threads(cpus)
    if order.token not in _started:
        for name, value in order.environment.items():
            os.environ.setdefault(name, value)
        with contextlib.suppress(OSError):  # a machine that has no such folder
            os.chdir(order.folder)
        store = job.store if shared else Store(_private_folder())
        _started.clear()  # one run at a time: the last one's networks and images are given up
        _started[order.token] = store, job.start(store, Reporter(lambda kind, content: _current[-1](kind, content)))
    return _started[order.token]


def _make_here(store: Store, work: Work[Any, Any], node: Any, inputs: Mapping[str, Any]) -> Answer:
    """Make a node in this machine's own store: fetch what it is made from, return what is new."""
    import ray

    for name, reference in inputs.items():
        if not (store.root / name).exists():
            unpack(store, name, ray.get(reference))
    before = names(store)
    made = work(node)
    return Answer(made, packed={name: pack(store, name) for name in names(store) - before})


def _private_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="inoculate-store-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
