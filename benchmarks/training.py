"""Training speed: our loop against a bare one of forward, backward and optimiser step on one and the same batch.

`python -m benchmarks.training [repeats]`. The bare loop runs (a) the model of `build_model` and (b) timm's own.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.common import interleaved, report, seeded_images
from inoculate import Dataset, build_model
from inoculate.models.acceleration.hardware import prefers_bf16
from inoculate.training.methods.base import standard
from inoculate.training.plan import TrainingPlan
from inoculate.training.recipe import Recipe, make_optimizer
from inoculate.training.samples import TrainingSet
from inoculate.training.trainer import fit

UPDATES, BATCH = 16, 64


def main(repeats: int = 5) -> None:
    images, labels = seeded_images(UPDATES * BATCH)
    split = Dataset.from_tensors(images, labels, classes=[str(i) for i in range(10)])
    recipe = Recipe(updates=UPDATES, rounds=1, batch_size=BATCH)
    x, y = images[:BATCH].float() / 255, labels[:BATCH]
    ours_trained = build_model("resnet18", classes=10, image_size=32)
    plan = TrainingPlan(TrainingSet.of(split), split.subset(range(1)), standard, recipe)
    speeds: list[float] = []

    def ours() -> None:
        """All of `fit`: batches, schedule, logging, and at the end one validation image and the checkpoints."""
        with tempfile.TemporaryDirectory() as folder:
            history = fit(ours_trained, plan, Path(folder))
            speeds.append(history[0]["images_per_second"])

    def bare(model: nn.Module) -> Callable[[], None]:
        model.train().to(memory_format=torch.channels_last)
        optimizer, batch = make_optimizer(model, recipe), x.contiguous(memory_format=torch.channels_last)
        bf16 = prefers_bf16(torch.device("cpu"))

        def run() -> None:
            for _ in range(UPDATES):
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                    loss = F.cross_entropy(model(batch).float(), y)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

        return run

    work = {
        "fit, with its checkpoints": ours,
        "bare loop, our model": bare(build_model("resnet18", classes=10, image_size=32)),
        "bare loop, timm's model": bare(timm.create_model("resnet18", num_classes=10)),
    }
    for run in work.values():  # warm-up
        run()
    seconds = interleaved(work, repeats)
    loop = {"fit": [UPDATES * BATCH / speed for speed in speeds[1:]], **seconds}  # the first was the warm-up
    title = f"Training ResNet-18 at 32×32, {UPDATES} updates of {BATCH} images, AdamW"
    medians = report(title, loop, "bare loop, our model", UPDATES * BATCH)
    print(f"  fit reaches {100 * medians['bare loop, our model'] / medians['fit']:.0f} % of the bare loop's speed")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
