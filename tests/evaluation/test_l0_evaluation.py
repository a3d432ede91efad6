"""L0 in the jobs: evaluate, minimal_eps, transfer, explain, saved images; and training, which refuses it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from inoculate.attacks.fab import FAB
from inoculate.attacks.fmn import FMN
from inoculate.attacks.patch import Patch
from inoculate.attacks.pgd import PGD
from inoculate.attacks.sigma_zero import SigmaZero
from inoculate.attacks.sparse_rs import SparseRS
from inoculate.attribution.explain import explain
from inoculate.attribution.explanation import Amounts
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.minimal_eps import minimal_eps
from inoculate.evaluation.records import save_images
from inoculate.evaluation.transfer import transfer
from inoculate.hardening.harden import harden
from inoculate.training.train import train

THREATS = [Threat("l0", 3), Threat("l0", 9)]
ATTACKS = {"pgd": PGD(steps=5), "sparse_rs": SparseRS(40), "sigma_zero": SigmaZero(20), "patch": Patch(steps=10)}


def test_every_attack_is_measured_and_its_images_are_saved(digits: tuple[nn.Module, Dataset], tmp_path: Path) -> None:
    model, data = digits[0], digits[1].subset(range(30))
    options = EvaluationOptions(checks=False, keep_images=True)
    found = evaluate(model, data, ATTACKS, THREATS, options=options)
    by_attack = {name: [row for row in found if row.attack == name] for name in ATTACKS}
    for name, rows in by_attack.items():
        assert [(row.norm, row.eps) for row in rows] == [("l0", 3), ("l0", 9)]
        assert rows[1].accuracy < found[0].accuracy, name
        for row in rows:
            pixels = found.per_image[row].distance
            assert torch.equal(pixels, pixels.round())
            assert pixels.max() <= row.eps
    for saved in save_images(found, model, data, tmp_path):
        assert saved.misclassified >= 0.9 * len(saved.files)


def test_the_fewest_pixels_of_each_image(digits: tuple[nn.Module, Dataset]) -> None:
    model, data = digits[0], digits[1].subset(range(20))
    for attack in (SigmaZero(40), FMN(40)):
        fewest = minimal_eps(model, data, attack, Threat("l0", 64))
        assert bool((fewest == fewest.round()).all())
        assert 2 <= fewest[fewest > 0].median() <= 12
    with pytest.raises(InputError, match="no version for l0"):
        minimal_eps(model, data, FAB(), Threat("l0", 64))


def test_examples_of_few_pixels_are_transferred_and_explained(digits: tuple[nn.Module, Dataset]) -> None:
    model, data = digits[0], digits[1].subset(range(12))
    for attack in (SparseRS(30), SigmaZero(20), Patch(steps=5)):
        assert len(transfer({"a": model, "b": model}, data, attack, THREATS[1:])) == 2 + 4
    amounts = Amounts(images=2, steps=2, stability=4, fragility=4, search=5)
    found = explain(model, data, SparseRS(20), Threat("l0", 5), amounts=amounts)
    assert found.facts["norm"] == "l0"
    assert all(value is None or value == round(value) for value in found.facts["fragility"]["measured"])


def test_training_in_l0_is_refused_in_one_line(digits: tuple[nn.Module, Dataset]) -> None:
    for work in (
        lambda: train(*digits, "pgd_at", threat=Threat("l0", 3)),
        lambda: harden(*digits, Threat("l0", 3), budget="1s"),
    ):
        with pytest.raises(InputError, match="no training method knows l0") as caught:
            work()
        assert "\n" not in str(caught.value)
