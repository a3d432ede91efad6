"""A time budget ends with fewer images, and with bounds that hold for all of them."""

import time

import pytest
from evaluation_samples import measured
from torch import nn

from inoculate.attacks.fgsm import FGSM
from inoculate.core.threat import Threat
from inoculate.evaluation.budget import families

THREAT = [Threat("linf", 0.1)]


class _Clock:
    """A clock that only attacks move: a busy machine must not decide what is tested."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class _Slow(nn.Module):
    """Takes 10 ms for each image that is attacked."""

    def __init__(self, inner, clock):
        super().__init__()
        self.inner, self.clock = inner, clock

    def forward(self, x):
        if x.requires_grad:
            self.clock.now += 0.01 * len(x)
        return self.inner(x)


@pytest.fixture
def clock(monkeypatch):
    found = _Clock()
    monkeypatch.setattr(time, "monotonic", found)
    return found


def slow(digits, clock, seconds, attacks=("fgsm",), **options):
    model, data = digits
    return measured(
        _Slow(model, clock), data.subset(range(120)), list(attacks), THREAT,
        precision="exact", time_budget=seconds, **options,
    )  # fmt: skip


def test_a_time_budget_ends_with_fewer_images_and_honest_bounds(digits, clock):
    model, data = digits
    full = measured(model, data.subset(range(120)), ["fgsm"], THREAT)[1]
    found = slow(digits, clock, 0.7)
    assert 0.35 < clock.now < 0.8
    clean, part = found
    assert clean.n == 120
    assert 10 < part.n < 120
    low, high = found.per_image[part].bounds
    assert low <= full.accuracy <= high
    unknown = found.per_image[clean].right & ~found.per_image[part].finished
    assert high - low == pytest.approx(int(unknown.sum()) / 120)
    covers = 0
    for seed in range(8):  # one interval alone may well miss
        part = slow(digits, clock, 0.4, seed=seed)[1]
        covers += part.ci_low <= full.accuracy <= part.ci_high
    assert covers >= 5  # of 8 intervals of 95 %, chance gives fewer once in 2,700


def test_progress_is_percent_of_images_or_time(digits, clock):
    told = []
    attacks = {"fgsm": FGSM(), "bim": FGSM()}
    model, data = digits
    measured(
        _Slow(model, clock), data.subset(range(120)), attacks, THREAT, precision="exact", time_budget="0.9s",
        batch_size=16, progress=lambda *each: told.append(each),
    )  # fmt: skip
    attacked = [done for what, done, total in told if (what, total) == ("fgsm, bim", 100)]
    assert len(attacked) == len([what for what, *_ in told if what != "clean"]) > 4
    assert attacked == sorted(attacked)
    assert 0 < attacked[0] < 75  # the first of several chunks is not the whole
    assert attacked[-1] > 60


def test_enough_time_gives_the_whole_number_and_none_gives_a_warning(digits, clock):
    model, data = digits
    part, told = data.subset(range(120)), []
    full = measured(model, part, ["fgsm"], THREAT)[1]
    plenty = measured(model, part, ["fgsm"], THREAT, time_budget=600, progress=lambda *each: told.append(each))
    assert told[-1] == ("fgsm", 100, 100)
    assert (plenty[1].n, plenty[1].correct) == (120, full.correct)
    assert bool(plenty.per_image[plenty[1]].finished.all())
    none = slow(digits, clock, 0.01)
    assert len(none) == 1
    assert "no image was finished" in none.warnings[0]


def test_threats_that_differ_in_eps_alone_are_together():
    small, large, other = Threat(eps=0.1), Threat(eps=0.2), Threat("l2", 0.1)
    assert families([large, other, small]) == [(large, small), (other,)]
