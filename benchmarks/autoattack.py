"""AutoAttack against the port of its reference implementation (pyautoattack), on a standard and a hardened ResNet-18.

`python -m benchmarks.autoattack [images] [cuda]`. Takes minutes to an hour: the port is run once, with the paper's
budgets.
"""

from __future__ import annotations

import time

import torch

from benchmarks.common import DEVICE, machine, numbers, seeded_images, trained_resnet18, white_box
from inoculate import AutoAttack, Dataset, Threat

EPS, BATCH = 8 / 255, 250 if DEVICE == "cpu" else 1000


def main(count: int = 64) -> None:
    import pyautoattack

    images, labels = seeded_images(count)
    split = Dataset.from_tensors(images, labels, classes=[str(i) for i in range(10)])
    for training, eps in (("standard", 0.0), ("hardened", EPS)):
        model = trained_resnet18(eps=eps).requires_grad_(False)
        found: dict[str, tuple[float, float]] = {}
        for name, attack in (
            ("autoattack", AutoAttack()),
            ("autoattack_thorough", AutoAttack(termination_ratio=float("inf"))),
        ):
            began = time.perf_counter()
            (accuracy,) = white_box(model, split, attack, [Threat("linf", EPS)], BATCH)
            found[name] = accuracy, time.perf_counter() - began
        began = time.perf_counter()
        port = pyautoattack.AutoAttack(model, norm="Linf", eps=EPS, seed=0, version="standard", device=DEVICE)
        x, y = (images.float() / 255).to(DEVICE), labels.to(DEVICE)
        x_adv = port.run_standard_evaluation(x, y, batch_size=BATCH)
        x_adv = x_adv[0] if isinstance(x_adv, tuple) else x_adv
        with torch.no_grad():
            accuracy = float((model(x_adv).argmax(1) == y).float().mean())
        found["pyautoattack"] = accuracy, time.perf_counter() - began
        print(f"\nAutoAttack, {training} ResNet-18, {count} images of 32×32, L∞ 8/255; {machine()}")
        for name, (accuracy, seconds) in found.items():
            ratio = found["pyautoattack"][1] / seconds
            print(f"  {name:20} accuracy {100 * accuracy:5.1f} %  {seconds:7.1f} s  {ratio:5.2f} × as fast as the port")


if __name__ == "__main__":
    main(*numbers())
