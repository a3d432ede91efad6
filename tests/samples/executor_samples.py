"""A job of tiny artefacts for executors: each adds up the numbers of those it depends on."""

import logging
import os
import pickle
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from inoculate.artifacts.executors.base import Artefact, Needs
from inoculate.artifacts.files import read_json, write_json
from inoculate.artifacts.store import MANIFEST, Store
from inoculate.core.errors import InputError

GRAPH = {0: (), 1: (), 2: (0, 1), 3: (2,), 4: (), 5: (3, 4)}
SUMS = {0: 1, 1: 1, 2: 3, 3: 4, 4: 1, 5: 6}  # one more than those it depends on


def graph(size):
    """`size` nodes; every third depends on the two before it."""
    return {node: (node - 2, node - 1) if node % 3 == 2 else () for node in range(size)}


@dataclass(frozen=True)
class SumJob:
    """Makes a node's sum; a node of `behaviour` does something else on its first attempt."""

    store: Store
    graph: dict
    seconds: float = 0.0
    behaviour: tuple = ()  # (node, what) pairs

    def needs(self, node):
        return Needs()

    def inputs(self, node):
        return [f"sum/{self.store.path('sum', {'node': each}).name}" for each in self.graph[node]]

    def start(self, store, progress):
        def work(node):
            began = []

            def make(folder: Path):
                began.append(node)
                self._behave(folder, node, progress)
                progress(1, 1, {"node": node})
                inputs = [read_json(store.path("sum", {"node": each}) / "sum.json") for each in self.graph[node]]
                write_json(folder / "sum.json", 1 + sum(inputs))

            folder = store.get_or_make("sum", {"node": node}, make)
            return Artefact(f"sum/{folder.name}", bool(began), 0.0)

        return work

    def _behave(self, folder, node, progress):
        what = dict(self.behaviour).get(node)
        first = not (folder / "begun").exists()
        (folder / "begun").touch()
        if what == "die" and first:
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "always die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "refuse":
            raise InputError("this node is wrong: mend it")
        if what == "fail":
            raise ZeroDivisionError("in the middle")
        if what == "log":
            logging.getLogger("inoculate.samples").warning("node %d is odd", node)
        if what == "threads":
            import torch

            write_json(folder / "threads.json", torch.get_num_threads())
        (folder / "pid").write_text(str(os.getpid()))
        time.sleep(self.seconds)


class Alike:
    """An executor of one worker in this process that knows nothing but what is sent to it; it is stopped after so many
    batches."""

    workers = 3

    def __init__(self, stop_after=None):
        self.sizes, self.opened, self.stop_after = [], 0, stop_after

    @contextmanager
    def open(self, job, watch):
        self.job, self.opened = job, self.opened + 1
        self.content = pickle.dumps(job)
        yield self

    def run(self, graph):
        job = pickle.loads(self.content)
        work = job.start(job.store, lambda *_: None)
        for node in reversed(list(graph)):  # in any order
            if len(self.sizes) == self.stop_after:
                raise KeyboardInterrupt
            sent = pickle.dumps(node)
            assert len(sent) < 200_000
            arrived = pickle.loads(sent)
            assert arrived == node
            self.sizes.append(len(arrived.content.images))
            yield node, pickle.loads(pickle.dumps(work(arrived)))


class Watcher:
    """Remembers what it is told."""

    def __init__(self):
        self.begun, self.steps = [], []

    def begin(self, node):
        self.begun.append(node)

    def progress(self, node, done, total, facts):
        self.steps.append((node, done, total, facts))


def sums(store, nodes):
    """What was made."""
    return {node: read_json(store.path("sum", {"node": node}) / "sum.json") for node in nodes}


def attempts(root):
    """How often each artefact of a store was begun, by its path."""
    manifests = Path(root).glob(f"*/*/{MANIFEST}")
    return {f"{path.parent.parent.name}/{path.parent.name}": read_json(path)["attempts"] for path in manifests}
