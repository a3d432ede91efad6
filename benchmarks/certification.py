"""Bounding images of 28×28 pixels: intervals, and backward linear bounds over them, of networks of certified training.

`python -m benchmarks.certification [intervals] [relaxations] [cuda]`. So many images are bounded by IBP in fp32 with
outward rounding (10,000), and by CROWN-IBP in float64 (1,000). The time of neither depends on weights or images.
"""

from __future__ import annotations

import time

import torch

from benchmarks.common import DEVICE, finish, launch, machine, numbers
from inoculate import Threat, build_model, trace
from inoculate.certification.certifiers import CROWN_IBP, QUICK, Certifier

NETWORKS = ("dm_small", "dm_medium_bn", "cnn7_narrow", "cnn7")
THREAT = Threat("linf", 0.1)


def main(intervals: int = 10_000, relaxations: int = 1_000) -> None:
    print(machine())
    for name in NETWORKS:
        model = build_model(name, classes=10, channels=1, image_size=28).eval().to(DEVICE)
        graph = trace(model, (1, 28, 28))
        for certifier, count in ((QUICK, intervals), (CROWN_IBP, relaxations)):
            size = certifier.largest_batch(graph)
            seconds = timed(certifier, graph, count, size)
            print(f"  {name:14} {certifier.name:10} {count:6} images in {seconds:7.1f} s, {size} at a time")


def timed(certifier: Certifier, graph, count: int, size: int) -> float:  # type: ignore[no-untyped-def]
    """Seconds for `count` images in batches of `size`."""
    x = torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    y = torch.zeros(count, dtype=torch.int64, device=DEVICE)
    with torch.no_grad():
        certifier.margins(graph, x[:2], y[:2], THREAT)
        finish()
        began = time.perf_counter()
        for part, labels in zip(x.split(size), y.split(size), strict=True):
            certifier.margins(graph, part, labels, THREAT)
        finish()
    return time.perf_counter() - began


if __name__ == "__main__":
    launch(lambda: main(*numbers()))
