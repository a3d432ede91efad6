"""A job on many images in a process of its own, which prints its peak of anonymous memory in KiB.

Started by `tests/study/test_memory.py`. Arguments: the job, the number of images, a folder.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.craft import AdvSet, craft
from inoculate.attacks.registry import ATTACKS
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.data.split import partition
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.transfer import TransferOptions, transfer
from inoculate.hardening.harden import harden
from inoculate.hardening.options import HardeningOptions
from inoculate.study.arms import training_set
from inoculate.training.methods.base import standard
from inoculate.training.options import TrainingOptions
from inoculate.training.plan import TrainingPlan
from inoculate.training.recipe import Recipe
from inoculate.training.train import train
from inoculate.training.trainer import fit

SHAPE, CLASSES, THREATS = (3, 32, 32), 4, [Threat("linf", 0.03)]


def dataset(n: int, folder: Path) -> Dataset:
    """Images in a file that is mapped into memory, as decoded ones are; written once."""
    file = folder / f"images{n}.npy"
    if not file.is_file():
        draw = np.random.default_rng(0)
        content = np.lib.format.open_memmap(file, "w+", np.uint8, (n, *SHAPE))
        for start in range(0, n, 1024):
            content[start : start + 1024] = draw.integers(256, size=(len(content[start : start + 1024]), *SHAPE))
        content.flush()
    images = torch.from_numpy(np.load(file, mmap_mode="c"))
    labels = torch.arange(n) % CLASSES
    return Dataset(images, labels, tuple("abcd"), "images", f"{n:032x}")


def parts(data: Dataset) -> dict[str, Dataset]:
    found = partition(data.labels, seed=0, classes=data.classes)
    return {name: data.subset(getattr(found, name)) for name in ("train", "val", "test")}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(256, CLASSES))


def study_arms(data: Dataset, folder: Path) -> None:
    """What the cells of a study do with the images: craft them, and train on them and their copies."""
    own = parts(data)
    craft(ATTACKS["fgsm"], network(), own["train"], THREATS[0]).save(folder)
    for arm in ("transferred", "noise"):
        samples = training_set(arm, own["train"], (0.03,), seed=0, adversarial=AdvSet.load(folder))
        recipe = Recipe(updates=20, batch_size=64)
        fit(network(), TrainingPlan(samples, own["val"], standard, recipe), folder / arm)


JOBS: dict[str, Callable[[Dataset, Path], object]] = {
    "evaluate": lambda data, folder: evaluate(
        network(), data, ["fgsm", "pgd"], THREATS, batch_size=64, options=EvaluationOptions(store=folder / "store")
    ),
    "transfer": lambda data, folder: transfer(
        {"a": network(), "b": nn.Sequential(network())}, data, "fgsm", THREATS, batch_size=64,
        options=TransferOptions(store=folder / "store"),
    ),
    "train": lambda data, folder: train(network(), parts(data), out=folder, epochs=1, options=TrainingOptions()),
    "harden": lambda data, folder: harden(
        network(), parts(data), THREATS[0], budget=1, out=folder, options=HardeningOptions(test_images=100)
    ),
    "study": study_arms,
}  # fmt: skip


def anonymous() -> int:
    """The memory of this process that is no file's, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon:")))


def main(job: str, n: int, folder: Path) -> int:
    peak = [0]

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], anonymous())
            time.sleep(0.005)

    ATTACKS["autoattack"] = AutoAttack("quick", steps=2, targets=1, queries=5)
    data = dataset(n, folder)
    threading.Thread(target=watch, daemon=True).start()
    JOBS[job](data, folder / f"{job}{n}")
    return peak[0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[3])
    (place / f"{sys.argv[1]}{sys.argv[2]}").mkdir()
    print(main(sys.argv[1], int(sys.argv[2]), place))
