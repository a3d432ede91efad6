"""The measurements of a hardening: the same attacks, and proofs if they are asked for, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from inoculate.attacks.base import Attack
from inoculate.attacks.registry import get_attack
from inoculate.certification.bounds.region import require_bounded_norm
from inoculate.certification.bounds.tracing import trace
from inoculate.core.progress import Progress
from inoculate.core.row import CERTIFIED, Row
from inoculate.evaluation.certify import CertificationOptions, certify
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.result import Evaluation
from inoculate.hardening.data import HardeningData

CERTIFIER = "crown-ibp"  # about as quick as an attack


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
    """Clean and adversarial accuracy of `model` on the test images, and if `data` say so the certified one (last).

    `progress` sees each step as one of `stage`.
    """

    def step(what: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"{stage}: {what}", done, total)

    how: dict[str, Any] = {"seed": data.seed, "progress": step}
    if not data.certify:
        return evaluate(model, data.test, attacks_for(data), [data.threat], options=options, **how)
    certification = CertificationOptions(CERTIFIER, evaluation=options)
    return certify(model, data.test, [data.threat], attacks_for(data), options=certification, **how)


def require_bounds(model: nn.Module, data: HardeningData) -> None:
    """Raise `InputError` where nothing could be proven of `model`: for a layer without bounds, or in L0."""
    require_bounded_norm(data.threat)
    trace(model, data.image_shape)


def attacked(rows: Sequence[Row]) -> list[Row]:
    """The rows without that of a proof."""
    return [row for row in rows if row.attack != CERTIFIED]
