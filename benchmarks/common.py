"""What the benchmarks share: interleaved timing and the network they time."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate import PGD, Dataset, Threat
from inoculate.attacks.base import Attack
from inoculate.core.errors import InputError
from inoculate.evaluation.engine import Settings, measure_attack, measure_clean
from inoculate.models.classifier import Precision, prepare
from inoculate.models.normalize import Normalize

MEAN, STD = (0.5,) * 3, (0.25,) * 3
DEVICE = "cuda" if "cuda" in sys.argv else "cpu"


def numbers() -> list[int]:
    """The numbers of the command line, without the word that says where to run."""
    return [int(word) for word in sys.argv[1:] if word not in ("cpu", "cuda")]


def white_box(
    model: nn.Module,
    data: Dataset,
    attack: Attack,
    threats: Sequence[Threat],
    batch_size: int,
    precision: Precision = "fast",
) -> list[float]:
    """White-box accuracies, one per threat: what `evaluate` does, without its inspection of the model."""
    settings = Settings(batch_size)
    classifier = prepare(model, data, precision=precision)
    clean = measure_clean(classifier, data, settings).right
    results = measure_attack(classifier, data, attack, threats, clean, settings)
    return [float(result.right.float().mean()) for result in results]


def launch(main: Callable[[], None]) -> None:
    """Call `main`; bad input ends it with one line and exit code 2."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def machine() -> str:
    """What the times belong to, in words."""
    where = f"{torch.get_num_threads()} threads" if DEVICE == "cpu" else torch.cuda.get_device_name()
    return f"torch {torch.__version__}, {where}"


def finish() -> None:
    """Wait until a GPU has done what it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def interleaved(work: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each piece of work, `repeats` times in turn, so that a busy spell meets all."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            finish()
            began = time.perf_counter()
            run()
            finish()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def report(title: str, seconds: Mapping[str, list[float]], first: str, images: int) -> dict[str, float]:
    """Print medians, images per second and each one's time as a multiple of `first`'s; returns the medians."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    width = max(map(len, medians))
    print(f"\n{title}\n  {machine()}, medians of {len(seconds[first])}")
    for name, value in medians.items():
        spread = f"{min(seconds[name]):.3g}–{max(seconds[name]):.3g}"
        speed = f"{images / value:7.0f} images/s"
        print(f"  {name:{width}}  {value:6.3g} s ({spread})  {speed}  {value / medians[first]:5.2f} ×")
    return medians


def seeded_images(count: int, classes: int = 10) -> tuple[Tensor, Tensor]:
    """32×32 RGB pixels (uint8), each a faint coarse pattern of its class under strong noise, and labels."""
    g = torch.Generator().manual_seed(0)
    patterns = F.interpolate(torch.randn(classes, 3, 4, 4, generator=g), size=32, mode="bilinear")
    labels = torch.randint(classes, (count,), generator=g)
    images = 0.5 + 0.06 * patterns[labels] + 0.1 * torch.randn(count, 3, 32, 32, generator=g)
    return (images.clamp(0, 1) * 255).to(torch.uint8), labels


def timm_resnet18() -> nn.Module:
    """timm's own ResNet-18 for such images, with the normalisation in front."""
    return nn.Sequential(Normalize(MEAN, STD), timm.create_model("resnet18", num_classes=10))


def trained_resnet18(updates: int = 40, eps: float = 0.0) -> nn.Module:
    """timm's ResNet-18 after a few updates on such images: right on most of them, and on fewer under attack.

    It is timm's own, as users bring it: what `build_model` changes in it would help the peers too.
    With `eps` it is trained on FGSM examples from random starts, so that a part of the images withstands attacks.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm_resnet18().train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    images, labels = seeded_images(updates * 64)
    for x, y in zip(images.split(64), labels.split(64), strict=True):
        x = x.float() / 255
        if eps:
            x = PGD(steps=1, step=1.25)(model, x, y, Threat("linf", eps))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval().to(DEVICE)
