import pytest
from torch import nn

from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.hardening.data import HardeningData
from inoculate.hardening.recipe import check_augment, make_recipe, peak_lr, resolve_augment
from inoculate.hardening.schedule import Cost, ladder_for, schedule_budget
from inoculate.training.recipe import Recipe


def test_photographs_that_are_seen_often_are_augmented(digits):
    photos = Dataset.from_tensors(digits.images.expand(-1, 3, -1, -1).contiguous(), digits.labels, name="pets")
    assert [resolve_augment("auto", data, 9) for data in (digits, photos)] == ["none", "shifts"]
    assert [resolve_augment("auto", photos, epochs) for epochs in (1.5, 4.8, 5)] == ["none", "none", "shifts"]
    assert resolve_augment("none", photos, 9) == "none"
    check_augment("auto", photos)
    with pytest.raises(InputError, match="shifts"):
        check_augment("shift", photos)


def test_the_learning_rate_follows_the_network():
    assert peak_lr(None, plain=False, trained=False) == 0.002
    assert peak_lr(None, plain=True, trained=False) == 0.005
    assert peak_lr(None, plain=True, trained=True) == pytest.approx(0.0005)
    assert peak_lr(3.0, plain=True, trained=True) == 3.0


def test_validation_leaves_most_of_a_budget_to_the_training(digits):
    parts = (digits, digits.limit(150, seed=0), digits.limit(20, seed=1))
    data = HardeningData(*parts, Threat("linf", 8 / 255), 0)
    schedule = schedule_budget(20.0, Cost(0.01, -(-len(digits) // 64)), ladder_for(data.threat, nn.Linear(1, 1)))
    base = Recipe(schedule.updates, batch_size=64)
    recipe = make_recipe(schedule, data, base, timed=True)
    price = recipe.rounds * (10 * 150 + 150 / 3) / 64
    assert recipe.rounds >= 1
    assert price <= 0.2 * schedule.updates * schedule.method.passes
    assert make_recipe(schedule, data, base, timed=False).rounds > recipe.rounds
