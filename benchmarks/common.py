"""What the benchmarks share: interleaved timing and the network they time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from inoculate import build_model


def interleaved(work: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each piece of work, `repeats` times in turn after one warm-up, so that a busy spell meets all."""
    for run in work.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def report(title: str, seconds: Mapping[str, list[float]], first: str, images: int) -> dict[str, float]:
    """Print medians, images per second and each one's time as a multiple of `first`'s; returns the medians."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    width = max(map(len, medians))
    print(
        f"\n{title}\n  torch {torch.__version__}, {torch.get_num_threads()} threads, medians of {len(seconds[first])}"
    )
    for name, value in medians.items():
        spread = f"{min(seconds[name]):.2f}–{max(seconds[name]):.2f}"
        speed = f"{images / value:7.0f} images/s"
        print(f"  {name:{width}}  {value:6.2f} s ({spread})  {speed}  {value / medians[first]:5.2f} ×")
    return medians


def seeded_images(count: int, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Random 32×32 RGB pixels (uint8) and labels."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=g, dtype=torch.uint8)
    return images, torch.randint(classes, (count,), generator=g)


def lived_in_resnet18() -> nn.Module:
    """A ResNet-18 for 32×32 images whose BatchNorms have weights and statistics of their own, in eval mode."""
    model = build_model("resnet18", classes=10, channels=3, image_size=32).train()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=g)
        for _ in range(8):
            model(torch.rand(64, 3, 32, 32, generator=g))
    return model.eval()
