"""Nets, images and the table of attacks that the tests of this folder share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inoculate.attacks.apgd import APGD
from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.base import Attack
from inoculate.attacks.bim import BIM
from inoculate.attacks.fab import FAB
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.hopskipjump import HopSkipJump
from inoculate.attacks.mifgsm import MIFGSM
from inoculate.attacks.one_step_target import OneStepTarget
from inoculate.attacks.patch import Patch
from inoculate.attacks.pgd import PGD
from inoculate.attacks.rays import RayS
from inoculate.attacks.short_ensemble import ShortEnsemble
from inoculate.attacks.sigma_zero import SigmaZero
from inoculate.attacks.sparse_rs import SparseRS
from inoculate.attacks.square import Square
from inoculate.core.threat import Norm


@dataclass(frozen=True)
class Case:
    """One attack of the table: every law is checked on it.

    `random`: its result depends on the generator. `minimal`: it leaves images alone that are misclassified as they are.
    """

    attack: Attack
    random: bool = False
    minimal: bool = False
    norms: tuple[Norm, ...] = ("linf", "l2", "l1", "l0")
    fewest_classes: int = 2


CASES = {
    "fgsm": Case(FGSM()),
    "fgsm_margin": Case(FGSM(loss="margin")),
    "one_step_least_likely": Case(OneStepTarget("least_likely")),
    "one_step_random": Case(OneStepTarget("random"), random=True),
    "one_step_class": Case(OneStepTarget(1)),
    "bim": Case(BIM(steps=3, step=0.5)),
    "bim_least_likely": Case(BIM(steps=3, step=0.5, target="least_likely")),
    "bim_random": Case(BIM(steps=3, step=0.5, target="random"), random=True),
    "pgd": Case(PGD(steps=3, step=0.5), random=True),
    "pgd_restarts": Case(PGD(steps=2, step=0.5, restarts=2), random=True),
    "pgd_early": Case(PGD(steps=4, step=0.5, early_stop=True), random=True),
    "mifgsm": Case(MIFGSM(steps=3, step=0.5)),
    "mifgsm_blurred": Case(MIFGSM(steps=3, step=0.5, blur=3)),
    "mifgsm_diverse": Case(MIFGSM(steps=3, step=0.5, diversity=1.0), random=True),
    "apgd": Case(APGD(steps=6), random=True, norms=("linf", "l2", "l1")),
    "apgd_margin": Case(APGD(steps=6, loss="margin", restarts=2), random=True, norms=("linf", "l2", "l1")),
    "apgd_targeted": Case(APGD(steps=4, loss="margin", targets=2), random=True, norms=("linf", "l2", "l1")),
    "apgd_target": Case(APGD(steps=6, loss="margin", target="least_likely"), random=True, norms=("linf", "l2", "l1")),
    "fab": Case(FAB(steps=5, targets=2), minimal=True, norms=("linf", "l2", "l1")),
    "hopskipjump": Case(HopSkipJump(queries=150, samples=10), random=True, minimal=True, norms=("linf", "l2")),
    "rays": Case(RayS(queries=60), minimal=True, norms=("linf",)),
    "square": Case(Square(queries=15), random=True, norms=("linf", "l2", "l1")),
    "square_target": Case(Square(queries=15, target=1), random=True, norms=("linf", "l2", "l1")),
    "sigma_zero": Case(SigmaZero(steps=6), minimal=True, norms=("l0",)),
    "sparse_rs": Case(SparseRS(queries=15), random=True, norms=("l0",)),
    "sparse_rs_target": Case(SparseRS(queries=15, target=1), random=True, norms=("l0",)),
    "patch": Case(Patch(steps=4, step=0.2), random=True, norms=("l0",)),
    "patch_early": Case(Patch(steps=4, step=0.2, restarts=2, early_stop=True), random=True, norms=("l0",)),
    "patch_anywhere": Case(Patch(steps=2, step=0.2, eot=2), random=True, norms=("l0",)),
    "short_ensemble": Case(ShortEnsemble(steps=3, queries=6), random=True, norms=("linf", "l2", "l1")),
    "autoattack": Case(
        AutoAttack(steps=4, targets=2, queries=8), random=True, norms=("linf", "l2", "l1"), fewest_classes=4
    ),
    "autoattack_quick": Case(AutoAttack("quick", 4, 2, 8, 0.6), random=True, norms=("linf", "l2", "l1")),
}
DETERMINISTIC = [name for name, case in CASES.items() if not case.random]
RANDOM = [name for name, case in CASES.items() if case.random]
IN_NORMS = [(name, norm) for name, case in CASES.items() for norm in case.norms]
RADII = {"linf": 0.03, "l2": 0.5, "l1": 2.0, "l0": 3}


def for_every(*tables: Iterable[Any]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Make one test of a law: it runs for every combination of the tables' entries, and a failure names its own."""
    combinations = list(itertools.product(*tables))
    assert combinations

    def make(law: Callable[..., None]) -> Callable[[], None]:
        def test() -> None:
            for combination in combinations:
                case = [part for entry in combination for part in (entry if isinstance(entry, tuple) else (entry,))]
                try:
                    law(*case)
                except (Exception, pytest.fail.Exception) as error:
                    raise AssertionError(f"{law.__name__} does not hold for {case}: {error}") from error

        test.__name__, test.__doc__ = law.__name__, law.__doc__
        return test

    return make


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(
    batch: int = 6, channels: int = 3, size: tuple[int, int] = (8, 8), classes: int = 4, seed: int = 1
) -> tuple[Tensor, Tensor]:
    g = seeded(seed)
    x = torch.rand(batch, channels, *size, generator=g)
    x[0, :, 0, 0], x[0, :, 0, 1] = 0.0, 1.0  # the ends of the range are there, whatever the seed
    return x, torch.randint(classes, (batch,), generator=g)


def small_net(channels: int = 3, classes: int = 4, seed: int = 0) -> nn.Sequential:
    """Convolutions, BatchNorm with statistics of its own, dropout and a linear layer, for images of any size; eval."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(64, classes),
        )
        for _ in range(3):
            net(torch.rand(16, channels, 8, 8))
    return net.eval()


def linear_net(rows: list[list[float]], bias: list[float] | None = None) -> nn.Sequential:
    """logits = rows · flattened image (+ bias)."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return nn.Sequential(nn.Flatten(), layer)
