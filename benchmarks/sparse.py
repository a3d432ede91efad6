"""L0: σ-zero beside adv-lib's, and Sparse-RS beside the reference code, on two small CNNs trained on MNIST.

`python -m benchmarks.sparse --data-root DIR [--images 60] [--steps 100] [--eps 12] [--queries 300] [--seeds 3]`. The
first network is trained as usual, the second by PGD in L∞ 0.3. A peer that cannot be imported is left out: `adv-lib`
from PyPI, and `rs_attacks.py` with its `utils.py` from github.com/fra31/sparse-rs on `PYTHONPATH`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import launch, machine
from inoculate import FMN, PGD, Dataset, SigmaZero, SparseRS, Threat, load_data
from inoculate.core.pixels import to_float
from inoculate.core.threat import distance

Search = Callable[[nn.Module, Tensor, Tensor], Tensor]


def pooled() -> nn.Module:
    """Two convolutions with pooling."""
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


def strided() -> nn.Module:
    """Two convolutions with stride 2."""
    layers = [nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(32 * 49, 100), nn.ReLU(), nn.Linear(100, 10))


def train(make: Callable[[], nn.Module], data: Dataset, seed: int, updates: int, eps: float) -> nn.Module:
    """The network after so many updates, on PGD examples with a growing eps if there is one."""
    torch.manual_seed(seed)
    net, draw = make(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for number in range(updates):
        rows = torch.randint(len(data), (100,), generator=draw)
        x, y = to_float(data.images[rows]), data.labels[rows]
        if eps:
            x = PGD(steps=5, step=0.3)(net, x, y, Threat("linf", eps * min(1, 2 * number / updates)))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


def searches(steps: int) -> dict[str, Search]:
    """The attacks that look for the fewest pixels."""
    ours = {"sigma_zero": SigmaZero(steps), "fmn": FMN(steps)}
    found: dict[str, Search] = {
        name: lambda model, x, y, attack=attack: attack.closest(model, x, y, Threat("l0", 1))  # type: ignore[misc]
        for name, attack in ours.items()
    }
    with contextlib.suppress(ImportError):
        sys.modules.setdefault("visdom", types.ModuleType("visdom"))  # which adv-lib imports and does not need
        from adv_lib.attacks.sigma_zero import sigma_zero

        found["adv-lib"] = partial(sigma_zero, num_steps=steps)
    return found


def black_boxes(eps: int, queries: int, seed: int) -> dict[str, Search]:
    """Sparse-RS and its reference code."""
    attack, threat = SparseRS(queries), Threat("l0", eps)
    found: dict[str, Search] = {
        "sparse_rs": lambda model, x, y: attack(model, x, y, threat, generator=torch.Generator().manual_seed(seed))
    }
    with contextlib.suppress(ImportError):
        from rs_attacks import RSAttack

        def reference(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            torch.manual_seed(seed)
            settings: dict[str, Any] = {"norm": "L0", "n_queries": queries, "eps": eps, "p_init": 0.3, "verbose": False}
            with contextlib.redirect_stdout(io.StringIO()):
                x_adv: Tensor = RSAttack(model, **settings, seed=seed, device="cpu").perturb(x, y)[1]
            return x_adv

        found["reference"] = reference
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path)
    for name, value in (("images", 60), ("steps", 100), ("eps", 12), ("queries", 300), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    chosen = parser.parse_args()
    data, test = (load_data("mnist", split, data_root=chosen.data_root) for split in ("train", "test"))
    print(machine(), flush=True)
    for title, make, seed, updates, eps in (("A, standard", pooled, 0, 400, 0.0), ("B, PGD 0.3", strided, 1, 700, 0.3)):
        net = train(make, data, seed, updates, eps)
        x, y = to_float(test.images[: chosen.images]), test.labels[: chosen.images]
        right = net(x).argmax(1) == y
        x, y = x[right], y[right]
        print(f"{title}: {len(x)} images that it gets right", flush=True)
        for name, search in searches(chosen.steps).items():
            x_adv = search(net, x, y)
            pixels = distance(x_adv, x, "l0").where(net(x_adv).argmax(1) != y, torch.inf)
            quartiles = ", ".join(f"{pixels.quantile(q):.3g}" for q in (0.25, 0.5, 0.75))
            print(f"  {name:12} {chosen.steps} steps: quartiles of changed pixels {quartiles}", flush=True)
        for draw in range(chosen.seeds):
            for name, search in black_boxes(chosen.eps, chosen.queries, draw).items():
                stand = int((net(search(net, x, y)).argmax(1) == y).sum())
                print(f"  {name:12} eps {chosen.eps}, {chosen.queries} queries, seed {draw}: {stand} stand", flush=True)


if __name__ == "__main__":
    launch(main)
