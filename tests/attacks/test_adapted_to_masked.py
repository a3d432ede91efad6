"""Networks that mask gradients, broken by what the package offers: BPDA, averaged gradients and a loss of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from masked_models import THREAT, Compressed, Masked, Thermometer, adaptive_accuracy, masked, parts
from torch import Tensor, nn

from inoculate.attacks.apgd import APGD
from inoculate.attacks.pgd import PGD
from inoculate.core.rng import seeded
from inoculate.data.dataset import Dataset
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.models.bpda import BPDA

QUICK = EvaluationOptions(checks=False)


def compressed() -> nn.Module:
    model = masked("JPEG and bit depth")
    assert isinstance(model, Compressed)
    return nn.Sequential(BPDA(model._compress), model.body).eval()


def thermometer() -> nn.Module:
    model = masked("gradient shattering")
    assert isinstance(model, Thermometer)

    def steps(x: Tensor, steepness: float = model.steepness) -> Tensor:
        return (steepness * (x - model.thresholds)).sigmoid()

    return nn.Sequential(BPDA(steps, lambda x: steps(x, 10.0)), model.body).eval()


def scale_free(logits: Tensor, y: Tensor) -> Tensor:
    """The margin over its own size: a huge temperature does not matter."""
    true = logits.gather(1, y[:, None])[:, 0]
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - true


ADAPTED: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "JPEG and bit depth": (compressed, PGD(40, 0.1, restarts=4, loss="margin")),
    "gradient shattering": (thermometer, APGD(40, "margin", targets=3, restarts=2)),
    "random resizing": (lambda: masked("random resizing"), PGD(40, 0.1, restarts=2, loss="margin", eot=8)),
    "huge temperature": (lambda: masked("huge temperature"), PGD(40, 0.1, restarts=4, loss=scale_free)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ADAPTED)
def test_the_package_comes_within_three_points_of_the_attack_written_by_hand(name: str) -> None:
    data: Dataset = parts()[1].subset(range(150))
    make, attack = ADAPTED[name]
    model: Masked = masked(name)
    with seeded(0, "adapted"):
        plain, adapted = (
            evaluate(each, data, {"pgd": with_}, [THREAT], options=QUICK)
            for each, with_ in ((model, PGD()), (make(), attack))
        )
    by_hand = adaptive_accuracy(model, data)
    assert adapted[0].accuracy == pytest.approx(plain[0].accuracy, abs=0.02)  # the same deployed network
    assert adapted[1].accuracy <= by_hand + 0.03
    assert plain[1].accuracy >= adapted[1].accuracy + 0.05
