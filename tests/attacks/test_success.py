"""When an image counts as adversarial; attacks that check it seldom, as on a GPU, find the same ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attack_samples import images, seeded, small_net
from torch import Tensor, nn

from inoculate.attacks import success
from inoculate.attacks.apgd import APGD
from inoculate.attacks.gradients import ValueAndGrad
from inoculate.attacks.registry import get_attack
from inoculate.attacks.success import BestAdversarial, is_adversarial, should_check_success, verify_adversarial
from inoculate.core.threat import Threat
from inoculate.models.acceleration.fast import fast

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.smoke
def test_adversarial_literally() -> None:
    logits, y = torch.tensor([[3.0, 1.0, 2.0]]).repeat(4, 1), torch.tensor([0, 1, 1, 0])
    assert is_adversarial(logits, y).tolist() == [False, True, True, False]
    # The second is classified as its target; the third is wrong, but not as its target; the last is its own target.
    targets = torch.tensor([1, 0, 2, 0])
    assert is_adversarial(logits, y, targets).tolist() == [False, True, False, False]


@pytest.mark.smoke
def test_the_original_of_a_fast_copy_decides() -> None:
    model, (x, _) = small_net(), images(8)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[:4] = (y[:4] + 1) % 4
    every = torch.ones(8, dtype=torch.bool)
    assert torch.equal(verify_adversarial(model, x, every, y), every)  # no copy: nobody else to ask
    assert verify_adversarial(fast(model), x, every, y).tolist() == [True] * 4 + [False] * 4
    assert not verify_adversarial(fast(model), x, ~every, y).any()


@pytest.mark.smoke
def test_the_best_adversarial_image_is_kept_until_it_is_confirmed() -> None:
    x, y = torch.zeros(3, 1, 1, 1), torch.zeros(3, dtype=torch.long)
    right, wrong = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    best = BestAdversarial.empty(x)
    for step, (values, logits) in enumerate(
        [
            ([1.0, 5.0, 1.0], [wrong, right, right]),
            ([2.0, 1.0, 9.0], [wrong, wrong, right]),
            ([1.0, 0.5, 9.0], [wrong] * 3),
        ]
    ):
        best.update(x + step + 1, ValueAndGrad(torch.tensor(values), x, torch.stack(logits)), y)
    assert best.found.tolist() == [True, True, True]
    assert best.images.flatten().tolist() == [2, 2, 3]  # of highest value, among the adversarial ones
    assert best.select(torch.tensor([2])).values.tolist() == [9]
    assert best.confirm(nn.Identity(), y).tolist() == [True, True, True]
    assert not best.found.any()


def test_a_gpu_is_asked_a_few_times_at_first_and_then_every_sixteen_steps() -> None:
    assert [n for n in range(1, 50) if should_check_success(n, GPU)] == [1, 2, 4, 8, 16, 32, 48]
    assert all(should_check_success(n, CPU) for n in range(50))


CASES: dict[str, dict[str, Any]] = {
    "pgd": {"steps": 20, "early_stop": True},
    "bim": {"steps": 7, "early_stop": True},
    "apgd_ce": {"steps": 30},
    "apgd_t": {"steps": 20, "targets": 2},
    "square": {"queries": 60},
    "autoattack": {"steps": 50, "targets": 3, "queries": 60},  # its runs end early, between two checks
}


def check_seldom(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make attacks check success as seldom as on a GPU; returns the numbers of steps after which they ask."""
    numbers: list[int] = []

    def seldom(number: int, _: torch.device) -> bool:
        numbers.append(number)
        return should_check_success(number, GPU)

    monkeypatch.setattr(success, "should_check_success", seldom)
    return numbers


def test_the_same_images_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = images(48)
    model, threat = small_net(3), Threat("linf", 0.05)
    with torch.no_grad():
        y = torch.where(torch.arange(48) < 40, model(x).argmax(1), y)  # most are right as they are
    crafting = {"the model": model, "its copy": fast(model)}

    def broken() -> dict[tuple[str, str], Tensor]:
        found = {}
        for name, options in CASES.items():
            for where, each in crafting.items():
                x_adv = get_attack(name, **options)(each, x, y, threat, generator=seeded(3))
                assert (x_adv - x).abs().max() <= 0.05 + 1e-6, name
                with torch.no_grad():
                    found[name, where] = model(x_adv).argmax(1) != y
        return found

    often = broken()
    asked = check_seldom(monkeypatch)
    seldom = broken()
    assert asked
    for case, wrong in often.items():
        assert torch.equal(seldom[case], wrong), case
        assert 8 < int(wrong.sum()) < 48, case  # neither none nor all


class _WrongAt(nn.Module):
    """Class 0, far from any other, with a gradient towards class 1 that leads about; keeps its inputs.

    At one given image class 2, and so far from class 1 that the image is the worst by an objective towards that class.
    """

    def __init__(self, wrong: Tensor | None = None) -> None:
        super().__init__()
        self.wrong, self.seen = wrong, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        zero = 0 * x.sum(dim=(1, 2, 3))
        logits = [zero + 5, 0.01 * (300 * x).sin().sum(dim=(1, 2, 3)), zero - 1, zero - 2, zero - 3]
        if self.wrong is not None:
            here = (x == self.wrong).flatten(1).all(dim=1)
            logits[1:3] = torch.where(here, zero - 50, logits[1]), torch.where(here, zero + 9, logits[2])
        return torch.stack(logits, dim=1)


def test_an_image_found_between_two_checks_is_kept_when_its_run_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """After eight of 100 steps, at a check, a hopeless run ends; its image may have been adversarial on the way."""
    asked = check_seldom(monkeypatch)
    x, y, threat = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.long), Threat("linf", 0.1)
    attack, plain = APGD(100, "dlr", targets=1, termination_ratio=1.0), _WrongAt()
    attack(plain, x, y, threat, generator=seeded(1))
    iterates = plain.seen[1:]  # the first pass ranks the classes
    assert len(iterates) == 1 + 8
    assert [n for n in asked if should_check_success(n, GPU)] == [1, 2, 4, 8]
    for number, image in enumerate(iterates):
        model = _WrongAt(image)
        found = attack(model, x, y, threat, generator=seeded(1))
        assert model(found).argmax(1).item() == 2, f"the iterate of step {number} was lost"
