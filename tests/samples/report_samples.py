"""Rows made by hand: `correct` is given, everything else follows."""

from __future__ import annotations

from inoculate.core.row import Row
from inoculate.core.stats import wilson


def row(
    model: str = "resnet18",
    arm: str = "standard",
    attack: str = "fgsm",
    eps: float = 0.01,
    correct: int = 50,
    n: int = 100,
    protocol: str = "white-box",
    dataset: str = "mnist",
    seed: int = 0,
    norm: str = "linf",
) -> Row:
    low, high = wilson(correct, n)
    return Row(
        dataset, model, arm, attack, norm, eps, protocol, correct / n, correct, n, low, high, seed=seed, seconds=0.0
    )


def clean(model: str, arm: str, correct: int, **others: object) -> Row:
    return row(model, arm, "none", 0.0, correct, **others)  # type: ignore[arg-type]
