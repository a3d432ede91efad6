"""Randomized smoothing of a CIFAR10 ResNet-18: images a minute, beside a plain loop over copies and Cohen's loop.

`python -m benchmarks.smoothing [copies] [repeats] [cuda]`. Of each an image is timed at so many copies (512), and the
images per minute at n = 10,000 follow, for the time is proportional to the copies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.common import DEVICE, interleaved, numbers, report, seeded_images
from inoculate import Smoothing, certify_smoothed, fast
from inoculate.models.architectures.small_resnet import SmallResNet

SIGMA, BATCH, N = 0.25, 256 if DEVICE == "cpu" else 2048, 10_000


def main(copies: int = 512, repeats: int = 3) -> None:
    model = SmallResNet(18, 10, 3).eval().requires_grad_(False).to(DEVICE)
    x = (seeded_images(1)[0].float() / 255).to(DEVICE)
    smoothing = Smoothing(SIGMA, n=copies, n0=1, batch_size=BATCH)
    crafting = fast(model)
    runs = {
        "ours": lambda: certify_smoothed(model, x, smoothing),
        "ours, base classifier fast(model)": lambda: certify_smoothed(crafting, x, smoothing),
        "plain loop, a copy at a time": lambda: plain(model, x, copies, 1),
        f"Cohen et al. 2019, batches of {BATCH}": lambda: plain(model, x, copies, BATCH),
    }
    title = f"randomized smoothing of a ResNet-18 on 32×32 images: {copies} copies of one image"
    medians = report(title, interleaved(runs, repeats), "ours", copies)
    for name, seconds in medians.items():
        print(f"  {name}: {60 * copies / (N * seconds):.2f} images a minute at n = {N:,}")


def plain(model: nn.Module, x: Tensor, copies: int, batch: int) -> Tensor:
    """The votes on an image as Cohen's code counts them: a batch of copies after the other, each waited for."""
    counts = torch.zeros(10, dtype=torch.int64)
    with torch.no_grad():
        for start in range(0, copies, batch):
            repeated = x.repeat(min(batch, copies - start), 1, 1, 1)
            predicted = model(repeated + SIGMA * torch.randn_like(repeated)).argmax(1)
            counts += predicted.cpu().bincount(minlength=10)
    return counts


if __name__ == "__main__":
    main(*numbers())
