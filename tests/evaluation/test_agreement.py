"""Warnings where attacks of one evaluation disagree, by counts that a reader can check."""

from __future__ import annotations

from dataclasses import replace

from evaluation_samples import Misleading, measured
from torch import nn

from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.base import Attack
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.pgd import PGD
from inoculate.attacks.square import Square
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.agreement import Measured, disagreement_warnings
from inoculate.evaluation.per_sample import PerSampleResult

THREAT = Threat("linf", 0.1)


def broken(n: int, by: dict[int, slice], attack: Attack, threat: Threat = THREAT) -> Measured:
    """A result on `n` images, of which member `place` (0 for a single attack) broke those of a slice first."""
    result = PerSampleResult.empty(n, threat.eps)
    result.right[:] = True
    for place, images in by.items():
        result.right[images], result.broken_by[images] = False, place
    return Measured("attack", attack, threat, result)


def test_square_alone_is_told_from_chance() -> None:
    """Of 1,000 images 0.2 points are 2; seven have a tail of 0.45 %, six of 1.7 %."""
    for count, warns in ((2, False), (6, False), (7, True)):
        one = broken(1000, {0: slice(0, 400), 4: slice(400, 400 + count)}, AutoAttack())
        found = disagreement_warnings([one], 10)
        assert bool(found) is warns, count
    assert "Square breaks 7 of 1000 images that no gradient attack breaks" in found[0]
    pgd, square = broken(1000, {0: slice(0, 400)}, PGD()), broken(1000, {0: slice(0, 407)}, Square())
    assert len(disagreement_warnings([pgd, square], 10)) == 1
    assert disagreement_warnings([pgd, broken(1000, {0: slice(400)}, Square())], 10) == []
    assert disagreement_warnings([square], 10) == []  # no gradient attack was run
    far = replace(pgd, threat=Threat("linf", 0.05))
    assert disagreement_warnings([far, square], 10) == []  # other threats are not compared


def test_an_ensemble_far_below_pgd_is_named() -> None:
    for count, warns in ((7, False), (100, False), (130, True)):  # of 1,000: 7 points are usual, ten the bound
        one = broken(1000, {0: slice(0, 300), 2: slice(300, 300 + count)}, AutoAttack())
        assert bool(found := disagreement_warnings([one], 10)) is warns, count
    assert "130 of 1000 images that PGD leaves right" in found[0]
    without = broken(1000, {0: slice(0, 300)}, FGSM())
    assert disagreement_warnings([without], 10) == []


def test_unfinished_images_do_not_count() -> None:
    one = broken(1000, {4: slice(0, 50)}, AutoAttack())
    assert len(disagreement_warnings([one], 10)) == 1
    one.result.finished[:45] = False
    assert disagreement_warnings([one], 10) == []
    one.result.finished[:] = False
    assert disagreement_warnings([one], 10) == []


def test_an_evaluation_warns(digits: tuple[nn.Module, Dataset]) -> None:
    model, data = digits
    attacks = {"pgd": PGD(), "square": Square(queries=100, rescale_schedule=True)}
    calm = measured(model, data, attacks, [THREAT])
    assert calm.warnings == []
    alarmed = measured(Misleading(model), data, attacks, [THREAT])
    assert any("no gradient attack breaks" in line for line in alarmed.warnings)
    assert any("PGD leaves right" in line for line in alarmed.warnings)
