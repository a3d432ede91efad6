"""Attacks that ask seldom which images are broken, as on a GPU, find the same ones."""

from __future__ import annotations

import pytest
import torch
from attack_samples import images, seeded, small_net
from torch import nn

from inoculate.attacks import apgd, success
from inoculate.attacks.losses import Objective, get_loss
from inoculate.attacks.registry import get_attack
from inoculate.attacks.success import should_check_success
from inoculate.core.threat import Threat
from inoculate.models.acceleration.fast import fast

CASES = {
    "pgd": {"steps": 20, "early_stop": True},
    "bim": {"steps": 7, "early_stop": True},
    "apgd_ce": {"steps": 30},
    "apgd_t": {"steps": 20, "targets": 2},
    "square": {"queries": 60},
    "autoattack": {"steps": 50, "targets": 3, "queries": 60},  # its runs are given up, between two looks
}


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_same_images_are_broken(name: str, copied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = images(48)
    model, threat = small_net(3), Threat("linf", 0.05)
    with torch.no_grad():
        y = torch.where(torch.arange(48) < 40, model(x).argmax(1), y)  # most are right as they are
    crafting = fast(model) if copied else model

    def broken() -> torch.Tensor:
        x_adv = get_attack(name, **CASES[name])(crafting, x, y, threat, generator=seeded(3))
        assert (x_adv - x).abs().max() <= 0.05 + 1e-6
        with torch.no_grad():
            wrong: torch.Tensor = model(x_adv).argmax(1) != y
        return wrong

    often = broken()
    asked: list[int] = []

    def seldom(number: int, _: torch.device) -> bool:
        asked.append(number)
        return should_check_success(number, torch.device("cuda"))

    monkeypatch.setattr(success, "should_check_success", seldom)
    assert torch.equal(broken(), often)
    assert asked
    assert 8 < int(often.sum()) < 48  # neither none nor all


class WrongOnce(nn.Module):
    """Class 0, far from any other, but at one pass out of all class 2."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.passes = at, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        s = x.mean(dim=(1, 2, 3))
        third = 9.0 if self.passes == self.at else -1.0
        return torch.stack([s * 0 + 5, s * 0.01, s * 0 + third, s * 0 - 2, s * 0 - 3], dim=1)


@pytest.mark.parametrize("at", [2, 5, 17, 18, 20, 23, 60, 101])
def test_what_was_caught_between_two_looks_is_kept_when_runs_are_given_up(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the 22nd of 100 steps a hopeless run ends; its images may have been broken on the way, by another class."""
    monkeypatch.setattr(
        success, "should_check_success", lambda number, _: should_check_success(number, torch.device("cuda"))
    )
    x, y = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.long)
    goal = Objective(get_loss("dlr"), y, torch.ones(1, dtype=torch.long))
    run = apgd.APGD(100, "dlr", 1, termination_ratio=1.0)._run
    broken = run(WrongOnce(at), x, goal, Threat("linf", 0.1), x)[2]
    assert bool(broken) == (at <= 23)  # the first pass is that of the start; later ones are not made


def test_a_gpu_is_asked_a_few_times_at_first_and_then_every_sixteen_steps() -> None:
    gpu = torch.device("cuda")
    assert [n for n in range(1, 50) if should_check_success(n, gpu)] == [1, 2, 4, 8, 16, 32, 48]
    assert all(should_check_success(n, torch.device("cpu")) for n in range(50))
