import pytest
import torch
from torch import nn

from inoculate.core.threat import Threat
from inoculate.hardening.schedule import (
    Cost,
    ladder_for,
    max_updates,
    schedule_budget,
    schedule_epochs,
    seconds_per_pass,
)
from inoculate.training.methods.registry import get_method
from inoculate.training.samples import TrainingSet

COST = Cost(per_pass=0.01, updates_per_epoch=100)
NORMED, PLAIN = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Linear(2, 2)


@pytest.mark.smoke
def test_a_larger_budget_buys_a_stronger_method():
    budgets, ladder = (1, 20, 40, 200, 2000), ladder_for(Threat("linf", 0.3), PLAIN)
    chosen = [schedule_budget(seconds, COST, ladder) for seconds in budgets]
    assert [schedule.method.name for schedule in chosen] == ["fgsm_rs", "pgd_at", "pgd_at", "pgd_at", "trades"]
    steps = [schedule.method.spec["steps"] for schedule in chosen[1:]]
    assert steps == sorted(steps)
    for schedule, seconds in zip(chosen, budgets, strict=True):
        assert 0.6 * seconds < schedule.updates * schedule.method.passes * COST.per_pass <= seconds


def test_small_eps_has_its_own_ladder():
    small = Threat("linf", 8 / 255)
    ladder = ladder_for(small, NORMED)
    chosen = [schedule_budget(seconds, COST, ladder).method for seconds in (1, 40, 200, 2000)]
    assert [method.name for method in chosen] == ["fgsm_rs", "fgsm_rs", "fgsm_rs_then_pgd", "fgsm_rs_then_pgd"]
    assert chosen[2].spec["awp"] > 0
    assert [rung.method.spec.get("weight_decay") for rung in ladder] == [0.3, None]
    assert {rung.method.spec.get("weight_decay") for rung in ladder_for(small, PLAIN)} == {None}
    other = [ladder_for(Threat("l2", eps), NORMED) for eps in (8 / 255, 1)]
    assert other[0] == other[1], "only of the L∞ norm"
    assert len(other[0]) > len(ladder)


def test_updates_are_limited_against_robust_overfitting():
    for eps, cases in ((8 / 255, ((10, 700), (100, 5000))), (0.3, ((5, 700), (100, 10_000)))):
        threat = Threat("linf", eps)
        ladder = ladder_for(threat, PLAIN)
        for epoch, limit in cases:
            schedule = schedule_budget(20_000, Cost(0.01, epoch), ladder, max_updates(threat, epoch))
            assert schedule.updates == limit
            assert f"limited to {limit} updates" in schedule.reason
        assert schedule_budget(100, COST, ladder, max_updates(threat, 100)) == schedule_budget(100, COST, ladder)


def test_the_reason_says_what_was_measured_and_what_is_too_short():
    ladder = ladder_for(Threat("linf", 0.3), PLAIN)
    assert "takes 10 ms on this machine, so 0.333 min allow" in schedule_budget(20, COST, ladder).reason
    assert "the strongest method that gets at least 2 epochs" in schedule_budget(20, COST, ladder).reason
    assert "less than one pass over the images" in schedule_budget(1, COST, ladder).reason


def test_epochs_are_passes_over_the_images():
    method = get_method("fgsm_rs")
    assert schedule_epochs(method, 3, images=100, batch_size=32).updates == 9
    assert schedule_epochs(method, 1, images=10, batch_size=32).updates == 1


def test_a_pass_is_timed_on_a_copy(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 10))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = TrainingSet.of(digits)
    assert seconds_per_pass(model, data, Threat("linf", 0.1), 16, 0.01) > 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
