"""What executors gain and cost: independent trainings one after the other, in two processes, and on Ray.

`python -m benchmarks.executors [CELLS [SECONDS]]`: CELLS trainings of about SECONDS each, by default 8 of 10 s. Then a
simulation of larger clusters from the measured cost per step, and where it saturates.
"""

from __future__ import annotations

import heapq
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.common import launch, numbers, seeded_images
from inoculate.artifacts.executors.base import Artefact, Executor, Needs
from inoculate.artifacts.executors.find import find_executor
from inoculate.artifacts.store import Store
from inoculate.core.extras import is_installed
from inoculate.models.build import build_model

BATCH = 64
NODES = (1, 10, 100, 1000)
WEIGHTS = 45e6  # bytes that a step reads and writes: a ResNet-18
DISK = 1e9  # bytes per second of a shared disk
PER_NODE = 8  # workers of a machine


@dataclass(frozen=True)
class Trainings:
    """Independent trainings of a small network, of `updates` updates each."""

    store: Store
    updates: int

    def needs(self, node: int) -> Needs:
        return Needs()

    def inputs(self, node: int) -> Collection[str]:
        return ()

    def start(self, store: Store, progress: Callable[[int, int, Mapping[str, float]], None]) -> Any:
        def work(node: int) -> Artefact:
            folder = store.get_or_make("training", {"node": node}, lambda _: train(self.updates))
            return Artefact(f"training/{folder.name}", made=True, seconds=0.0)

        return work


class Silent:
    """Watches without a word."""

    def begin(self, node: int) -> None: ...

    def progress(self, node: int, done: int, total: int, facts: Mapping[str, float]) -> None: ...


def train(updates: int) -> None:
    """Train ResNet-18 on made-up images."""
    images, labels = seeded_images(BATCH)
    model = build_model("resnet18", classes=10, image_size=32) if updates else None
    for _ in range(updates):
        assert model is not None
        F.cross_entropy(model(images.float() / 255), labels).backward()


def seconds(executor: Executor, cells: int, updates: int) -> float:
    """Wall-clock seconds of `cells` trainings."""
    with tempfile.TemporaryDirectory() as folder:
        job, graph = Trainings(Store(Path(folder)), updates), dict.fromkeys(range(cells), ())
        began = time.perf_counter()
        with executor.open(job, Silent()) as pool:
            assert len(list(pool.run(graph))) == cells
        return time.perf_counter() - began


def per_step(executor: Executor) -> float:
    """Seconds that the driving process spends on a step, from steps that do nothing; starting workers is left out."""
    few, many = 20, 220
    with tempfile.TemporaryDirectory() as folder:
        job = Trainings(Store(Path(folder)), updates=0)
        with executor.open(job, Silent()) as pool:
            assert len(list(pool.run(dict.fromkeys(range(few), ())))) == few
            began = time.perf_counter()
            assert len(list(pool.run(dict.fromkeys(range(few, many), ())))) == many - few
            return (time.perf_counter() - began) / (many - few)


def simulate(nodes: int, step: float, driver: float, traffic: float) -> float:
    """Steps per second of `nodes` machines, by simulating each event.

    step: seconds of a step on a worker. driver: seconds of the driving process, which serves one step at a time.
    traffic: seconds of the shared disk, which serves one step at a time too.
    """
    workers = nodes * PER_NODE
    steps = 20 * workers
    free = [0.0] * workers  # when each worker is free
    driver_free = disk_free = end = 0.0
    for _ in range(steps):
        begin = driver_free = max(heapq.heappop(free), driver_free) + driver
        disk_free = max(begin + step, disk_free) + traffic
        heapq.heappush(free, disk_free)
        end = max(end, disk_free)
    return steps / end


def main(cells: int = 8, each: float = 10.0) -> None:
    names = ["local", "processes:2", *(["ray"] if is_installed("ray") else [])]
    train(1)  # the first one loads libraries
    began = time.perf_counter()
    train(5)
    train_seconds = (time.perf_counter() - began) / 5
    updates = max(1, round(each / train_seconds))
    print(f"\n{cells} trainings of {updates} updates, {torch.get_num_threads()} threads where there is one process")
    taken = {name: seconds(find_executor(name), cells, updates) for name in names}
    for name, value in taken.items():
        print(f"  {name:12} {value:7.1f} s  {value / taken['local']:5.2f} of local")
    if "ray" not in taken:
        print("  Ray is not installed: pip install 'inoculate[ray]'")
        return
    print(f"  ray takes {taken['ray'] / taken['processes:2'] - 1:+.1%} over processes:2, with the start of its cluster")
    report_simulation(per_step(find_executor("ray")), each)


def report_simulation(driver: float, each: float) -> None:
    """Print how many machines are kept busy."""
    traffic = WEIGHTS / DISK
    print(
        f"\nSimulated: steps of {each:g} s, {1000 * driver:.1f} ms of the driving process and {WEIGHTS:.0e} bytes each"
    )
    for nodes in NODES:
        rate = simulate(nodes, each, driver, traffic)
        print(f"  {nodes:5} machines of {PER_NODE}: {rate:8.1f} steps/s, {rate * each / (nodes * PER_NODE):4.0%} busy")
    for name, cost in (("the driving process", driver), ("the shared disk", traffic)):
        if cost:
            print(f"  {name} is saturated by {each / cost:.0f} workers, {each / cost / PER_NODE:.0f} machines")


if __name__ == "__main__":
    launch(lambda: main(*numbers()))
