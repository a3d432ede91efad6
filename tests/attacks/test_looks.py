"""Attacks that ask seldom which images are broken, as on a GPU, find the same ones."""

from __future__ import annotations

import pytest
import torch
from attack_samples import images, seeded, small_net

from inoculate.attacks import apgd, gradient, square
from inoculate.attacks.attack import looks
from inoculate.attacks.registry import attack_named
from inoculate.models.fast import fast
from inoculate.threat import Threat

CASES = {
    "pgd": {"steps": 20, "early_stop": True},
    "bim": {"steps": 7, "early_stop": True},
    "apgd_ce": {"steps": 30},
    "apgd_t": {"steps": 20, "targets": 2},
    "square": {"queries": 60},
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
        x_adv = attack_named(name, **CASES[name])(crafting, x, y, threat, generator=seeded(3))
        assert (x_adv - x).abs().max() <= 0.05 + 1e-6
        with torch.no_grad():
            wrong: torch.Tensor = model(x_adv).argmax(1) != y
        return wrong

    often = broken()
    asked: list[int] = []

    def seldom(number: int, _: torch.device) -> bool:
        asked.append(number)
        return looks(number, torch.device("cuda"))

    for module in (apgd, gradient, square):
        monkeypatch.setattr(module, "looks", seldom)
    assert torch.equal(broken(), often)
    assert asked
    assert 8 < int(often.sum()) < 48  # neither none nor all


def test_a_gpu_is_asked_a_few_times_at_first_and_then_every_sixteen_steps() -> None:
    gpu = torch.device("cuda")
    assert [n for n in range(1, 50) if looks(n, gpu)] == [1, 2, 4, 8, 16, 32, 48]
    assert all(looks(n, torch.device("cpu")) for n in range(50))
