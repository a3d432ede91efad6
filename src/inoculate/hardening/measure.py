"""The measurements of a hardening: the same attacks before and after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from inoculate.attacks.base import Attack
from inoculate.attacks.registry import get_attack
from inoculate.core.progress import Progress
from inoculate.core.row import Row
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.hardening.data import HardeningData


@dataclass(frozen=True, eq=False)
class Measurement:
    """Rows, clean first; correct test images (N, bool) by row; adversarial images (N×C×H×W) of the last row."""

    rows: list[Row]
    correct: dict[Row, NDArray[np.bool_]]
    images: Tensor


def attacks_for(data: HardeningData) -> dict[str, Attack]:
    """FGSM, PGD-20 and AutoAttack (there is none for L1; with fewer than four classes it has no targeted DLR loss)."""
    attacks = {"fgsm": get_attack("fgsm"), "pgd": get_attack("pgd", steps=20, step=0.125)}
    if data.threat.norm != "l1":
        strongest = "autoattack" if len(data.test.classes) >= 4 else "autoattack_binary"
        attacks[strongest] = get_attack(strongest)
    return attacks


def measure(
    model: nn.Module, data: HardeningData, *, name: str, arm: str, stage: str, progress: Progress | None
) -> Measurement:
    """Clean and adversarial accuracy of `model` on the test images; `name` and `arm` label the rows."""
    options = EvaluationOptions(checks=False, keep_images=True, name=name, arm=arm)
    found = evaluate(
        model, data.test, attacks_for(data), [data.threat], seed=data.seed, options=options,
        progress=None if progress is None else lambda what, done, total: progress(f"{stage}: {what}", done, total),
    )  # fmt: skip
    correct = {row: result.right.numpy() for row, result in found.per_image.items()}
    return Measurement(found.rows, correct, found.images[found.rows[-1]])
