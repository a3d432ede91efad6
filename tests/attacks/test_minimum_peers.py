"""Minimum-norm attacks find images no further away than 1.05 times the median of other libraries' attacks."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from attack_samples import for_every, images, small_net
from torch import Tensor, nn

from inoculate.attacks.carlini_wagner import CarliniWagner
from inoculate.attacks.deepfool import DeepFool
from inoculate.attacks.fmn import FMN
from inoculate.attacks.sigma_zero import SigmaZero
from inoculate.core.threat import Norm, Threat, distance


def predictions(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)


@cache
def digits() -> tuple[nn.Module, Tensor]:
    """A small net that reads handwritten digits, and 32 of them; half of their pixels lie at an end of the range."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip
        adam = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(80):
            rows = torch.randint(1500, (48,))
            adam.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            adam.step()
    return net.eval(), x[1500:1532]


def sample(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    model, x = digits() if name == "digits" else (small_net(classes=10), images(32)[0])
    return model, x, predictions(model, x)


def median(model: nn.Module, x: Tensor, y: Tensor, norm: Norm, x_adv: Tensor, every_one: bool = False) -> float:
    """Of the distances; an image that is not misclassified is infinitely far."""
    broken = predictions(model, x_adv.detach()) != y
    assert bool(broken.all()) or not every_one
    return float(distance(x_adv.detach(), x, norm).where(broken, torch.inf).median())


SAMPLES = ("digits", "noise")


@for_every(
    SAMPLES,
    [
        (DeepFool(), "linf", "LinfDeepFoolAttack"),
        (DeepFool(), "l2", "L2DeepFoolAttack"),
        (FMN(steps=30), "linf", "LInfFMNAttack"),
        (FMN(steps=30), "l2", "L2FMNAttack"),
        (FMN(steps=30), "l1", "L1FMNAttack"),
        (FMN(steps=30), "l0", "L0FMNAttack"),
        (SigmaZero(steps=30), "l0", "L0FMNAttack"),
    ],
)
def test_no_further_than_foolbox(name: str, ours: DeepFool | FMN | SigmaZero, norm: Norm, theirs: str) -> None:
    peer = pytest.importorskip("foolbox")
    model, x, y = sample(name)
    found = getattr(peer.attacks, theirs)(steps=ours.steps).run(peer.PyTorchModel(model, bounds=(0, 1)), x, y)
    mine = ours.closest(model, x, y, Threat(norm, 1))
    bound = 1.05 * median(model, x, y, norm, found)
    assert median(model, x, y, norm, mine, every_one=True) <= bound < torch.inf


@for_every(SAMPLES)
def test_carlini_and_wagner_no_further_than_foolbox(name: str) -> None:
    peer = pytest.importorskip("foolbox")
    model, x, y = sample(name)
    attack = peer.attacks.L2CarliniWagnerAttack(binary_search_steps=3, steps=60, stepsize=0.03, initial_const=1.0)
    found = attack.run(peer.PyTorchModel(model, bounds=(0, 1)), x, y)
    ours = CarliniWagner(search=3, steps=60, lr=0.03, constant=1.0)
    mine = ours.closest(model, x, y, Threat("l2", 0.1))
    assert median(model, x, y, "l2", mine, every_one=True) <= 1.05 * median(model, x, y, "l2", found)


@for_every(SAMPLES)
def test_carlini_and_wagner_no_further_than_torchattacks(name: str) -> None:
    peer = pytest.importorskip("torchattacks")
    model, x, y = sample(name)
    found = peer.CW(model, c=100, steps=60, lr=0.03)(x, y)  # it does not search for the constant
    ours = CarliniWagner(search=1, steps=60, lr=0.03, constant=100)
    mine = ours.closest(model, x, y, Threat("l2", 0.1))
    bound = 1.05 * median(model, x, y, "l2", found)
    assert median(model, x, y, "l2", mine) <= bound < torch.inf
