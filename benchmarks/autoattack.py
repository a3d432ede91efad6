"""AutoAttack against the port of its reference implementation (pyautoattack): CPU seconds, wall seconds, accuracy.

`python -m benchmarks.autoattack [--images 64] [cuda]` attacks a standard and a hardened ResNet-18 on synthetic images;
`python -m benchmarks.autoattack --model FOLDER --data mnist --eps 0.1 --images 200 [--data-root DIR]` a trained folder.
Takes minutes to an hour: the port is run once, with the paper's budgets, after ours in the same process. CPU seconds
(all threads) can be compared on a busy machine too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from benchmarks.common import DEVICE, finish, launch, machine, seeded_images, trained_resnet18, white_box
from inoculate import Dataset, Threat, get_attack, load_data
from inoculate.core.pixels import to_float
from inoculate.core.threat import parse_eps
from inoculate.models.loading.checkpoints import read_description
from inoculate.models.loading.load import load_model

EPS, BATCH = 8 / 255, 250 if DEVICE == "cpu" else 1000
OURS = ("autoattack", "autoattack_quick", "autoattack_thorough")


class Cost(NamedTuple):
    accuracy: float
    cpu: float  # seconds of all threads
    wall: float


def timed(accuracy: Callable[[], float]) -> Cost:
    finish()
    cpu, wall = time.process_time(), time.perf_counter()
    found = accuracy()
    finish()
    return Cost(found, time.process_time() - cpu, time.perf_counter() - wall)


def port(model: nn.Module, split: Dataset, threat: Threat) -> float:
    """The accuracy that the port's whole AutoAttack leaves."""
    import pyautoattack

    norm = {"linf": "Linf", "l2": "L2"}[threat.norm]
    whole = pyautoattack.AutoAttack(model, norm=norm, eps=threat.eps, seed=0, version="standard", device=DEVICE)
    x, y = to_float(split.images).to(DEVICE), split.labels.to(DEVICE)
    x_adv = whole.run_standard_evaluation(x, y, batch_size=BATCH)
    x_adv = x_adv[0] if isinstance(x_adv, tuple) else x_adv
    with torch.no_grad():
        return float((torch.cat([model(part) for part in x_adv.split(BATCH)]).argmax(1) == y).float().mean())


def compare(title: str, model: nn.Module, split: Dataset, threat: Threat) -> None:
    model.requires_grad_(False)
    found = {
        name: timed(lambda name=name: white_box(model, split, get_attack(name), [threat], BATCH)[0])  # type: ignore[misc]
        for name in OURS
    }
    found["pyautoattack"] = timed(lambda: port(model, split, threat))
    print(f"\nAutoAttack, {title}, {len(split)} images, {threat}; {machine()}")
    for name, cost in found.items():
        ratios = [found["pyautoattack"].cpu / cost.cpu, found["pyautoattack"].wall / cost.wall]
        print(
            f"  {name:20} accuracy {100 * cost.accuracy:5.1f} %  {cost.cpu:7.1f} CPU s ({ratios[0]:5.2f} × as fast as "
            f"the port)  {cost.wall:7.1f} s ({ratios[1]:5.2f} ×)",
            flush=True,
        )


def main(count: int = 64) -> None:
    """A standard and a hardened ResNet-18 on synthetic images."""
    images, labels = seeded_images(count)
    split = Dataset.from_tensors(images, labels, classes=[str(i) for i in range(10)])
    for training, eps in (("standard", 0.0), ("hardened", EPS)):
        compare(f"{training} ResNet-18 at 32×32", trained_resnet18(eps=eps), split, Threat("linf", EPS))


def command() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", nargs="?", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--images", default=64, type=int)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-root")
    parser.add_argument("--norm", default="linf", choices=("linf", "l2"))
    parser.add_argument("--eps", default=EPS, type=parse_eps)
    chosen = parser.parse_args()
    if chosen.model is None:
        main(chosen.images)
        return
    model, spec = load_model(chosen.model), read_description(chosen.model).spec
    size = {"image_size": spec.image_size, "channels": spec.channels}
    split = load_data(chosen.data, "test", data_root=chosen.data_root, **size).limit(chosen.images, seed=0)
    compare(str(chosen.model), model.to(DEVICE), split, Threat(chosen.norm, chosen.eps))


if __name__ == "__main__":
    launch(command)
