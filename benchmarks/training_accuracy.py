"""Is PGD training as good as a plain loop's? ResNet-18 on real images after equal epochs, judged by the same PGD-20.

`python -m benchmarks.training_accuracy --data cifar10 --data-root DIR [--epochs 1] [--seeds 3] [--who ours,plain]`.
Ours (`fit`, crafting on the fast copy, its own precision) and a plain PyTorch loop with torchattacks' PGD in fp32 start
from the same weights and see the same batches at the same learning rates; random starts and arithmetic differ.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.common import launch, machine
from inoculate import PGD, Dataset, EvaluationOptions, Threat, evaluate, load_data
from inoculate.core.pixels import to_float
from inoculate.models.loading.checkpoints import ModelSpec
from inoculate.training.batches import batch_indices
from inoculate.training.methods.registry import get_method
from inoculate.training.plan import TrainingPlan
from inoculate.training.recipe import Recipe
from inoculate.training.samples import TrainingSet
from inoculate.training.trainer import fit

THREAT, STEPS = Threat("linf", 8 / 255), 10


def ours(model: nn.Module, train: Dataset, recipe: Recipe, seed: int) -> None:
    """Train in place by `fit`. The only round is the last, so no validation chooses among weights."""
    method = get_method("pgd_at", steps=STEPS, step=0.25).begin(THREAT)
    with tempfile.TemporaryDirectory() as folder:
        plan = TrainingPlan(TrainingSet.of(train), train.subset(range(64)), method, recipe, seed, THREAT)
        fit(model, plan, Path(folder))


def plain(model: nn.Module, train: Dataset, recipe: Recipe, seed: int) -> None:
    """Train in place as one would without this package."""
    import torchattacks

    torch.manual_seed(seed)
    attack = torchattacks.PGD(model, eps=THREAT.eps, alpha=THREAT.eps / 4, steps=STEPS)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=recipe.updates)
    model.train()
    for update in range(recipe.updates):
        rows = batch_indices(len(train), recipe.batch_size, update, seed)
        x, y = to_float(train.images[rows]), train.labels[rows]
        loss = F.cross_entropy(model(attack(x, y)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--data-root")
    parser.add_argument("--image-size", default=32, type=int)
    parser.add_argument("--epochs", default=1.0, type=float)
    parser.add_argument("--batch-size", default=64, type=int)
    parser.add_argument("--seeds", default=3, type=int)
    parser.add_argument("--images", default=10_000, type=int, help="test images that PGD-20 attacks")
    parser.add_argument("--who", default="ours,plain")
    chosen = parser.parse_args()
    train, test = (load_data(chosen.data, s, data_root=chosen.data_root, image_size=chosen.image_size)
                   for s in ("train", "test"))  # fmt: skip
    test = test.limit(min(chosen.images, len(test)), seed=0)
    updates = round(chosen.epochs * len(train) / chosen.batch_size)
    recipe = Recipe(
        updates, batch_size=chosen.batch_size, lr=1e-3, schedule="cosine", stop_on_failure=False, val_images=64
    )
    print(f"PGD-{STEPS} training on {chosen.data}, {updates} updates of {chosen.batch_size}; {machine()}", flush=True)
    for seed in range(chosen.seeds):
        for name in chosen.who.split(","):
            model = ModelSpec.fitting("resnet18", train, "imagenet").build(seed=seed)
            began = time.perf_counter()
            {"ours": ours, "plain": plain}[name](model, train, recipe, seed)
            seconds = time.perf_counter() - began
            options = EvaluationOptions("exact", checks=False)
            rows = evaluate(model.eval(), test, {"pgd": PGD(steps=20, step=0.125)}, [THREAT], options=options)
            print(
                f"  seed {seed} {name:5} {seconds:6.0f} s   clean {rows[0].accuracy:.1%}   "
                f"PGD-20 {rows[1].accuracy:.1%} of {rows[1].n}",
                flush=True,
            )


if __name__ == "__main__":
    launch(main)
