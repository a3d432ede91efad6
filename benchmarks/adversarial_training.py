"""PGD-10 training: ours against a plain loop with torchattacks' PGD, ART's Madry trainer, and the least work it can be.

`python -m benchmarks.adversarial_training [updates] [repeats]`. Every repeat trains each network for `updates` more
updates of 64 images, the same for all, with AdamW along a cosine (ART: at a constant rate); at the end each is judged
by the same PGD-20. The plain loop is timed on timm's own ResNet-18, as its users have it, and on the network of
`build_model`. Peers that are not installed are left out.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import MEAN, STD, interleaved, report, seeded_images, timm_resnet18
from inoculate import PGD, Dataset, EvaluationOptions, Threat, build_model, evaluate, fast
from inoculate.training.methods.registry import get_method
from inoculate.training.plan import TrainingPlan
from inoculate.training.recipe import Recipe
from inoculate.training.samples import TrainingSet
from inoculate.training.trainer import fit

BATCH, EPS, STEPS, LR = 64, 8 / 255, 10, 1e-3


def main(updates: int = 10, repeats: int = 3) -> None:
    images, labels = seeded_images(updates * BATCH + 512)
    pool = Dataset.from_tensors(images, labels, classes=[str(i) for i in range(10)])
    held, train = pool.subset(range(512)), pool.subset(range(512, len(pool)))
    x_all, y_all = train.images[:].float() / 255, train.labels
    threat = Threat("linf", EPS)
    trained: dict[str, nn.Module] = {}

    def ours() -> Callable[[], None]:
        model = trained["inoculate"] = build_model("resnet18", classes=10, image_size=32, normalize=(MEAN, STD))
        method = get_method("pgd_at", steps=STEPS, step=0.25).begin(threat)
        recipe = Recipe(updates, batch_size=BATCH, lr=LR, schedule="cosine", stop_on_failure=False, val_images=1)
        plan = TrainingPlan(TrainingSet.of(train), held.subset(range(1)), method, recipe, threat=threat)

        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                fit(model, plan, Path(folder))

        return run

    def plain(name: str, model: nn.Module, craft: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        trained[name] = model

        def run() -> None:
            optimizer = torch.optim.AdamW(model.parameters(), LR)
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=updates)
            model.train()
            for x, y in zip(x_all.split(BATCH), y_all.split(BATCH), strict=True):
                loss = F.cross_entropy(model(craft(x, y)), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()

        return run

    work = {"inoculate": ours()}
    try:
        import torchattacks

        for name, model in (
            ("torchattacks loop, timm's network", timm_resnet18()),
            (
                "torchattacks loop, our network",
                build_model("resnet18", classes=10, image_size=32, normalize=(MEAN, STD)),
            ),
        ):
            attack = torchattacks.PGD(model, eps=EPS, alpha=EPS / 4, steps=STEPS)
            work[name] = plain(name, model, attack)
    except ImportError:
        print("  torchattacks is not installed")
    try:
        from art.defences.trainer import AdversarialTrainerMadryPGD
        from art.estimators.classification import PyTorchClassifier

        logging.disable(logging.INFO)
        model = trained["ART, timm's network"] = timm_resnet18()
        wrapped = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), (3, 32, 32), 10, torch.optim.AdamW(model.parameters(), LR), clip_values=(0, 1)
        )
        trainer = AdversarialTrainerMadryPGD(
            wrapped, nb_epochs=1, batch_size=BATCH, eps=EPS, eps_step=EPS / 4, max_iter=STEPS
        )
        one_hot = F.one_hot(y_all, 10).numpy()
        work["ART, timm's network"] = lambda: trainer.fit(x_all.numpy(), one_hot)
    except ImportError:
        print("  ART is not installed")
    for run in work.values():  # warm-up, which trains too
        run()
    title = f"PGD-{STEPS} training of ResNet-18 at 32×32, {updates} updates of {BATCH} images"
    medians = report(title, interleaved(work, repeats), "inoculate", updates * BATCH)
    least = updates * fewest_seconds(x_all[:BATCH], y_all[:BATCH])
    print(f"  limit ({STEPS} input gradients and one training pass, the fastest measured): {least:.2f} s,")
    print(f"  which is {least / medians['inoculate']:.2f} of our time")
    for name, network in trained.items():
        rows = evaluate(
            network.eval(), held, {"pgd": PGD(steps=20, step=0.125)}, [threat], options=EvaluationOptions(checks=False)
        )
        print(f"  {name}: clean {rows[0].accuracy:.1%}, PGD-20 {rows[1].accuracy:.1%} of {rows[1].n}")


def fewest_seconds(x: Tensor, y: Tensor) -> float:
    """The fastest measured input gradient (fast copy or not) times the steps, and one training pass with its update."""
    model = build_model("resnet18", classes=10, image_size=32, normalize=(MEAN, STD)).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.AdamW(model.parameters(), LR, fused=True)
    x = x.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    def gradient(network: nn.Module) -> None:
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(network(leaf), y, reduction="sum"), leaf)

    model.train()
    passes = quickest(step)
    frozen = model.eval().requires_grad_(False)
    copy = fast(frozen)
    return passes + STEPS * min(quickest(lambda: gradient(frozen)), quickest(lambda: gradient(copy)))


def quickest(run: Callable[[], None], times: int = 7) -> float:
    """The least seconds that `run` took."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return min(found)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
