"""The measurements of a hardening: the same attacks before and after."""

from __future__ import annotations

from torch import nn

from inoculate.attacks.base import Attack
from inoculate.attacks.registry import get_attack
from inoculate.core.progress import Progress
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.result import Evaluation
from inoculate.hardening.data import HardeningData


def attacks_for(data: HardeningData) -> dict[str, Attack]:
    """FGSM, PGD-20 and AutoAttack in the version for the data and the network."""
    strongest = _autoattack(len(data.test.classes), data.is_random)
    return {
        "fgsm": get_attack("fgsm"),
        "pgd": get_attack("pgd", steps=20, step=0.125),
        strongest: get_attack(strongest),
    }


def _autoattack(classes: int, is_random: bool) -> str:
    """The targeted DLR loss needs four classes, the DLR loss three."""
    if is_random and classes >= 3:
        return "autoattack_rand"
    return "autoattack" if classes >= 4 else "autoattack_binary"


def measure(
    model: nn.Module, data: HardeningData, options: EvaluationOptions, stage: str, progress: Progress | None
) -> Evaluation:
    """Clean and adversarial accuracy of `model` on the test images; `progress` sees each step as one of `stage`."""
    return evaluate(
        model, data.test, attacks_for(data), [data.threat], seed=data.seed, options=options,
        progress=None if progress is None else lambda what, done, total: progress(f"{stage}: {what}", done, total),
    )  # fmt: skip
