"""The measurements of a hardening: the same attacks before and after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from inoculate.attacks.base import Attack
from inoculate.attacks.registry import get_attack
from inoculate.core.pixels import to_float
from inoculate.core.progress import Progress
from inoculate.core.row import Row
from inoculate.core.threat import Threat
from inoculate.evaluation.evaluate import evaluate
from inoculate.evaluation.per_sample import Verdict
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
    attacks, verdicts = attacks_for(data), dict[str, Verdict]()
    last, images = list(attacks)[-1], to_float(data.test.images)

    def keep(attack: str, rows: Tensor, x_adv: Tensor, _: Threat) -> None:
        if attack == last:
            images[rows] = x_adv.cpu()

    rows = evaluate(
        model, data.test, attacks, [data.threat], seed=data.seed, name=name, arm=arm, records=verdicts, keep=keep,
        progress=None if progress is None else lambda what, done, total: progress(f"{stage}: {what}", done, total),
    )  # fmt: skip
    return Measurement(rows, {row: verdicts[row.key].right.numpy() for row in rows}, images)
