"""Whole ensembles side by side: `autoattack` and the reference implementation, or its port, on small networks.

`python -m benchmarks.reference --data-root DIR --out DIR [--only mnist] [--images 1000] [--seeds 1] [--path CHECKOUT]`.
Each row is a network, a threat and a seed; the network is trained in seconds, from a fixed seed, the first time it is
needed. A finished row is kept in `OUT/rows.json`, so the same command goes on where it was stopped, and prints the
table of all rows as Markdown. The reference is pyautoattack, or with `--path` a checkout of fra31/auto-attack.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.common import launch
from inoculate import PGD, Dataset, EvaluationOptions, Threat, evaluate, load_data
from inoculate.artifacts.files import read_json, write_json
from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.models.architectures.small_cnn import small_cnn

BATCH, NORMS = 250, {"linf": "Linf", "l2": "L2", "l1": "L1"}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: on what, at which size in pixels, against which threat (None: clean images)."""

    data: str
    image_size: int
    threat: Threat | None = None
    updates: int = 300

    def load(self, split: str, data_root: str | None) -> Dataset:
        return load_data(self.data, split, data_root=data_root, image_size=self.image_size)


NETWORKS = {
    "mnist": Recipe("mnist", 28),
    "mnist-linf": Recipe("mnist", 28, Threat("linf", 0.2)),
    "mnist-l2": Recipe("mnist", 28, Threat("l2", 1.5)),
    "mnist-l1": Recipe("mnist", 28, Threat("l1", 10.0)),
    "cifar10": Recipe("cifar10", 32),
    "cifar10-linf": Recipe("cifar10", 32, Threat("linf", 4 / 255)),
    "pets": Recipe("cats_vs_dogs", 64),
}
ROWS = [
    ("mnist", Threat("linf", 0.1)),
    ("mnist-linf", Threat("linf", 0.2)),
    ("cifar10", Threat("linf", 2 / 255)),
    ("cifar10-linf", Threat("linf", 4 / 255)),
    ("pets", Threat("linf", 1 / 255)),
    ("mnist", Threat("l2", 1.0)),
    ("mnist-l2", Threat("l2", 1.5)),
    ("mnist", Threat("l1", 6.0)),
    ("mnist-l1", Threat("l1", 10.0)),
    ("mnist-linf", Threat("l1", 6.0)),
]


def trained(name: str, folder: Path, data_root: str | None) -> nn.Module:
    """The network of this name, from `folder` if it was trained before."""
    recipe, file = NETWORKS[name], folder / f"{name}.safetensors"
    train = recipe.load("train", data_root)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = small_cnn(len(train.classes), train.channels, recipe.image_size, maps=(16, 32), units=100)
    if file.is_file():
        model.load_state_dict(load_file(file))
        return model.eval().requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=recipe.updates)
    g = torch.Generator().manual_seed(0)
    for update in range(recipe.updates):
        rows = torch.randint(len(train), (64,), generator=g)
        x, y = to_float(train.images[rows]), train.labels[rows]
        if recipe.threat is not None:
            eps = min(1.0, 2 * update / recipe.updates) * recipe.threat.eps
            x = PGD(steps=3, step=0.6)(model, x, y, Threat(recipe.threat.norm, eps), generator=g)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        schedule.step()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), file)
    return model.eval().requires_grad_(False)


def ours(model: nn.Module, data: Dataset, threat: Threat, seed: int) -> Tensor:
    """Which images (N, bool) withstand our ensemble."""
    name = "autoattack" if len(data.classes) > 3 else "autoattack_binary"
    found = evaluate(
        model, data, [name], [threat], batch_size=BATCH, seed=seed, options=EvaluationOptions(checks=False)
    )
    return found.per_image[found[1]].right


def reference(package: Any, model: nn.Module, data: Dataset, threat: Threat, seed: int) -> Tensor:
    """Which images (N, bool) withstand the standard version of the reference."""
    whole = package.AutoAttack(
        model, norm=NORMS[threat.norm], eps=threat.eps, seed=seed, version="standard", device="cpu", verbose=False
    )
    others = len(data.classes) - 1
    whole.fab.n_target_classes = min(whole.fab.n_target_classes, others)
    whole.apgd_targeted.n_target_classes = min(whole.apgd_targeted.n_target_classes, others)
    if others < 3:
        whole.attacks_to_run = ["apgd-ce", "fab-t", "square"]  # the targeted loss needs four classes
    x, y = to_float(data.images), data.labels
    found = whole.run_standard_evaluation(x, y, BATCH)
    x_adv = found[0] if isinstance(found, tuple) else found
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in x_adv.split(BATCH)]) == y


def measure(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """The result, and the processor seconds that it took."""
    began = time.process_time()
    found = run()
    return found, time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--only", default="", help="part of the rows' names, such as mnist-l1 or l2")
    parser.add_argument("--images", default=1000, type=int)
    parser.add_argument("--seeds", default=1, type=int)
    parser.add_argument("--path", help="folder that holds the package autoattack")
    chosen = parser.parse_args()
    if chosen.path:
        sys.path.insert(0, chosen.path)
    package = importlib.import_module("autoattack" if chosen.path else "pyautoattack")
    for seed in range(chosen.seeds):
        for network, threat in ROWS:
            name = f"{network} {threat.norm} {threat.eps:.4g}"
            key = f"{name} {chosen.images} {seed}"
            if chosen.only in name and key not in _rows(chosen.out):
                row = compare(package, network, threat, chosen, seed)
                write_json(chosen.out / "rows.json", {**_rows(chosen.out), key: row})
                print(key, row, flush=True)
    print(table(_rows(chosen.out)))


def compare(package: Any, network: str, threat: Threat, chosen: argparse.Namespace, seed: int) -> dict[str, float]:
    """One row: images right, under ours, under the reference, and those that one alone broke."""
    model = trained(network, chosen.out, chosen.data_root)
    data = NETWORKS[network].load("test", chosen.data_root).limit(chosen.images, seed=0)
    with torch.no_grad():
        clean = model(to_float(data.images)).argmax(1) == data.labels
    mine, seconds = measure(lambda: ours(model, data, threat, seed))
    theirs, their_seconds = measure(lambda: reference(package, model, data, threat, seed))
    return {
        "clean": int(clean.sum()), "ours": int(mine.sum()), "reference": int(theirs.sum()),
        "only ours": int((~mine & theirs).sum()), "only the reference": int((mine & ~theirs).sum()),
        "seconds": round(seconds), "reference seconds": round(their_seconds),
    }  # fmt: skip


def table(rows: dict[str, dict[str, float]]) -> str:
    """The rows as Markdown, accuracies in percent."""
    head = ("network and threat", "images", "seed", "clean", "ours", "reference", "broken by ours alone", "by it alone")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for key, row in rows.items():
        name, images, seed = key.rsplit(" ", 2)
        percents = [f"{100 * row[each] / int(images):.1f}" for each in ("clean", "ours", "reference")]
        counts = [str(row[each]) for each in ("only ours", "only the reference")]
        lines.append(f"| {' | '.join([name, images, seed, *percents, *counts])} |")
    return "\n".join(lines)


def _rows(folder: Path) -> dict[str, dict[str, float]]:
    if not (folder / "rows.json").is_file():
        return {}
    found = read_json(folder / "rows.json")
    if not isinstance(found, dict):
        raise InputError(f"{folder / 'rows.json'} holds no rows: delete it")
    return found


if __name__ == "__main__":
    launch(main)
