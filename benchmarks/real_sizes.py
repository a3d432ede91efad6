"""What checks and explanations add at 224 pixels: `evaluate` with both and a report, against FGSM and PGD-20 alone.

`python -m benchmarks.real_sizes [images] [cuda]`. Each run has a process of its own: the time of its processor and its
largest memory count. The networks have random weights, and the labels are their own predictions.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.common import DEVICE, machine, numbers
from inoculate import FGSM, PGD, Dataset, EvaluationOptions, ExplainOptions, Threat, evaluate, explain, write_report
from inoculate.core.allocator import keep_freed_memory

NETWORKS = ("mobilenetv2_100", "resnet50", "vit_tiny_patch16_224")
MOST_TIMES, MOST_GIB = 2.0, 4.0
ATTACKS = {"fgsm": FGSM(), "pgd_20": PGD(steps=20)}
THREAT = Threat("linf", 8 / 255)


@dataclass(frozen=True)
class Used:
    """Seconds of the processor, and the largest memory in GiB."""

    seconds: float
    memory: float


def main(images: int = 32) -> None:
    """Print a line per network."""
    print(f"{images} images of 224×224, FGSM and PGD-20; {machine()}")
    for name in NETWORKS:
        alone, whole = (used_by(name, images, part) for part in ("alone", "whole"))
        times = whole.seconds / alone.seconds
        verdict = "ok" if times <= MOST_TIMES and whole.memory <= MOST_GIB else "TOO MUCH"
        print(
            f"  {name:22} attacks {alone.seconds:6.1f} s {alone.memory:4.1f} GiB; with checks, explanations and report "
            f"{whole.seconds:6.1f} s {whole.memory:4.1f} GiB: {times:.2f} times, {verdict}",
            flush=True,
        )


def used_by(name: str, images: int, part: str) -> Used:
    """What a process of its own uses for one part."""
    command = [sys.executable, "-m", "benchmarks.real_sizes", str(images), DEVICE, name, part]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    return Used(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20)


def run(name: str, images: int, whole: bool) -> None:
    """Attack the network, and if `whole` check, explain and report it too."""
    keep_freed_memory()
    model, data = labelled(name, images)
    found = evaluate(model, data, ATTACKS, [THREAT], options=EvaluationOptions(checks=whole, name=name))
    print(found)
    if not whole:
        return
    with tempfile.TemporaryDirectory() as folder:
        found.save(folder)
        options = ExplainOptions(name=name, evaluation=found)
        explained = explain(model, data, "pgd", THREAT, options=options)
        place = Path(folder) / "explanations" / "network"
        place.mkdir(parents=True)
        explained.save(place)
        facts = explained.facts
        print({key: len(facts[key]) for key in ("images", "notes")}, len(facts["stability"]["attack"]), facts["steps"])
        write_report(folder)


def labelled(name: str, images: int) -> tuple[nn.Module, Dataset]:
    """A network with random weights and smooth random images, which it classifies correctly."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval().to(DEVICE)
    coarse = torch.rand(images, 3, 14, 14)
    pixels = (F.interpolate(coarse, size=224, mode="bilinear") * 255).to(torch.uint8)
    with torch.no_grad():
        labels = torch.cat([model((some.float() / 255).to(DEVICE)).argmax(1).cpu() for some in pixels.split(8)])
    return model, Dataset.from_tensors(pixels, labels, classes=[str(i) for i in range(10)])


if __name__ == "__main__":
    if sys.argv[-1] in ("alone", "whole"):
        run(sys.argv[-2], int(sys.argv[1]), whole=sys.argv[-1] == "whole")
    else:
        main(*numbers())
