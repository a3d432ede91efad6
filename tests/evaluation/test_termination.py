"""Early termination is audited: what it hides is bounded, and nothing is hidden where a check alarms."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from digits_samples import trained_digits
from evaluation_samples import measured
from scipy.stats import hypergeom
from torch import Tensor, nn

from inoculate.attacks.apgd import APGD
from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.fab import FAB
from inoculate.attacks.pgd import PGD
from inoculate.attacks.square import Square
from inoculate.attacks.termination import terminates, with_full_budget
from inoculate.core.threat import Threat, project
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import Settings, in_full, measure_attack, measure_clean
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.per_sample import PerSampleResult, most_hidden
from inoculate.evaluation.result import Evaluation
from inoculate.evaluation.termination import finish, measure_audited
from inoculate.models.classifier import Classifier, prepare

THREATS = [Threat("linf", eps) for eps in (0.06, 0.08)]
HASTY = AutoAttack(steps=8, targets=1, queries=40, termination_ratio=0.02)  # ends nearly all runs


@dataclass(frozen=True)
class Lazy:
    """Darkens each image by eps under the full budget; else gives up the images whose corner pixel is `dark`."""

    termination_ratio: float = 1.0
    dark: float = 0.5

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        tried = (x[:, :1, :1, :1] > self.dark) | math.isinf(self.termination_ratio)
        return project(torch.where(tried, x - threat.eps, x), x, threat)


class Fragile(nn.Module):
    """Class 1 as long as the middle is brighter than ½; class 0 does not depend on it. `scale` saturates it."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        bright = x[:, 0, 1, 1] - 0.5
        return torch.stack([0 * bright, bright], dim=1) * self.scale


def bright_images(n: int, weak: int, given_up: int) -> Dataset:
    """Images of class 1, of which the first `weak` fall at eps 0.1 and the first `given_up` have a dark corner."""
    images = torch.full((n, 1, 3, 3), 0.9)
    images[:weak, 0, 1, 1] = 0.55
    images[:given_up, 0, 0, 0] = 0.1
    images[:, 0, 2, 2] = torch.arange(n) / n  # no two are alike
    return Dataset.from_tensors(
        (images * 255).round().to(torch.uint8), torch.ones(n, dtype=torch.long), classes=["dark", "bright"]
    )


def audited(
    model: nn.Module, data: Dataset, attack: Any, threats: list[Threat], seed: int = 0
) -> list[PerSampleResult]:
    classifier = prepare(model, data)
    right = measure_clean(classifier, data).right
    return measure_audited(classifier, data, attack, threats, right, Settings(batch_size=64, seed=seed))


@pytest.mark.parametrize(
    "attack",
    [APGD(5, "dlr", termination_ratio=0.5), FAB(termination_ratio=0.5), Square(termination_ratio=0.5), AutoAttack()],
)
def test_with_the_full_budget_no_run_ends_early(attack: Any) -> None:
    assert terminates(attack)
    assert with_full_budget(attack) == replace(attack, termination_ratio=math.inf)
    assert not terminates(in_full(attack))  # for another model, the source's boundary says little
    assert not terminates(PGD())
    assert with_full_budget(PGD()) == PGD()


def test_the_bound_covers_the_truth_for_every_number_of_hidden_images() -> None:
    """Exactly: over all samples of a tenth, at least 95 % have a bound that is not below what remains hidden."""
    for images, drawn in ((40, 4), (300, 30), (1000, 100)):
        for hidden in range(0, images + 1, max(1, images // 40)):
            broken = range(max(0, hidden - images + drawn), min(hidden, drawn) + 1)
            covered = sum(
                hypergeom.pmf(k, images, hidden, drawn)
                for k in broken
                if hidden - k <= most_hidden(k, drawn, images - drawn)
            )
            assert covered >= 0.95 - 1e-9, (images, hidden)
    assert most_hidden(0, 30, 270) < 30
    assert most_hidden(0, 0, 50) == 50  # nothing was looked at
    assert most_hidden(3, 10, 0) == 0


def test_a_random_tenth_of_what_stands_is_attacked_in_full() -> None:
    """Nothing hidden is found: the row says of how many, and what may be hidden nevertheless."""
    data, threat = bright_images(100, weak=0, given_up=80), Threat("linf", 0.1)
    (result,) = audited(Fragile(), data, Lazy(), [threat])
    assert int(result.audited.sum()) == 10
    assert torch.equal(result.terminated, result.right & ~result.audited)
    row = result.row(dataset="d", model="m", arm="a", attack="lazy", norm="linf", protocol="white-box", seed=0)
    assert (row.audited, row.audited_broken) == (10, 0)
    assert row.hidden == most_hidden(0, 10, 90) / 100 == 0.25
    (other,) = audited(Fragile(), data, Lazy(), [threat], seed=1)
    assert not torch.equal(other.audited, result.audited)  # the seed decides
    order = torch.randperm(100)
    (moved,) = audited(Fragile(), data.subset(order), Lazy(), [threat])
    assert torch.equal(moved.audited, result.audited[order])  # with the image alone
    (full,) = audited(Fragile(), data, with_full_budget(Lazy()), [threat])
    assert full.audit_fields == {}


def test_where_one_falls_all_are_attacked_in_full() -> None:
    data, threat = bright_images(100, weak=80, given_up=80), Threat("linf", 0.1)
    (result,) = audited(Fragile(), data, Lazy(), [threat])
    assert int(result.right.sum()) == 20
    assert result.audit_fields == {"audited": 100, "audited_broken": 80, "hidden": 0.0}


def test_saturated_outputs_are_attacked_in_full() -> None:
    """By the margin of the image found, and by a gradient that is exactly 0; the sample is drawn from the others."""

    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Fragile()(x) * torch.where(x[:, :1, 2, 2] < 0.5, 1e4, 1.0)

    data, threat = bright_images(100, weak=30, given_up=100), Threat("linf", 0.1)
    (result,) = audited(Mixed(), data, Lazy(dark=2.0), [threat])
    assert not result.right[:30].any()
    assert int(result.audited.sum()) == 5  # a tenth of the half that is not saturated
    assert not result.audited[:50].any()


def test_an_image_found_at_one_eps_is_broken_at_larger_ones() -> None:
    data = bright_images(60, weak=60, given_up=60)
    threats = [Threat("linf", eps) for eps in (0.2, 0.04, 0.1)]
    large, small, middle = audited(Fragile(), data, Lazy(), threats)
    assert small.right.all()
    assert not middle.right.any()
    assert not large.right.any()
    assert int(large.audited.sum()) == 60


def digits_part(n: int = 100) -> tuple[Classifier, Dataset, Tensor]:
    model, data = trained_digits()
    data = data.subset(range(n))
    classifier = prepare(model, data)
    return classifier, data, measure_clean(classifier, data).right


def test_an_ensemble_carries_the_audit_of_its_members() -> None:
    """Once all is attacked in full, it is what the thorough ensemble finds, by the members that found it."""
    classifier, data, right = digits_part()
    settings = Settings(batch_size=100)
    hasty = measure_attack(classifier, data, HASTY, THREATS, right, settings)
    thorough = measure_attack(classifier, data, with_full_budget(HASTY), THREATS, right, settings)
    assert any(int(one.right.sum()) > int(other.right.sum()) for one, other in zip(hasty, thorough, strict=True))
    marked = [replace(each, terminated=each.right.clone()) for each in hasty]
    finished = finish(classifier, data, HASTY, THREATS, marked, settings)
    for found, one, other in zip(finished, hasty, thorough, strict=True):
        assert torch.equal(found.right, other.right)
        assert torch.equal(found.broken_by >= 0, right & ~found.right)
        new = one.right & ~found.right
        assert {found.names[i] for i in found.broken_by[new].tolist()} <= {"apgd_ce", "apgd_t", "fab_t", "square"}
        assert found.audit_fields["hidden"] == 0
        assert found.seconds > one.seconds


def hides(seed: int, thorough: list[int], n: int) -> bool:
    """Whether the accuracy of the thorough ensemble lies below what the rows of this seed allow."""
    classifier, data, right = digits_part(n)
    found = measure_audited(classifier, data, HASTY, THREATS, right, Settings(seed=seed))
    rows = [each.row(dataset="", model="", arm="", attack="", norm="", protocol="", seed=0) for each in found]
    return any(row.correct - full > row.hidden * row.n for row, full in zip(rows, thorough, strict=True))


def full_counts(seed: int, n: int) -> list[int]:
    classifier, data, right = digits_part(n)
    found = measure_attack(classifier, data, with_full_budget(HASTY), THREATS, right, Settings(seed=seed))
    return [int(each.right.sum()) for each in found]


def test_the_printed_bound_covers_what_is_hidden() -> None:
    assert not any(hides(seed, full_counts(seed, 100), 100) for seed in range(2))


@pytest.mark.slow
def test_the_printed_bound_covers_what_is_hidden_in_eighteen_of_twenty_repetitions() -> None:
    assert sum(hides(seed, full_counts(seed, 100), 100) for seed in range(20)) <= 2


def test_after_an_alarm_every_run_is_finished() -> None:
    """The calm model's row has a bound above 0; an alarm leaves nothing hidden."""
    data, threats = bright_images(100, weak=0, given_up=0), [Threat("linf", 0.1)]
    calm = measured(Fragile(), data, {"lazy": Lazy()}, threats)[1]
    assert calm.hidden == 0.25
    found = evaluate(_Constant(), data, {"lazy": Lazy()}, threats)
    assert any(check.passed is False for check in found.checks)
    assert found[1].hidden == 0
    assert found[1].audited == 90  # and the ten without a gradient, which are no sample


class _Constant(nn.Module):
    """No gradient reaches a tenth of the images; nothing is saturated."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = Fragile()(x)
        return torch.where(x[:, :1, 2, 2] < 0.1, logits.detach() + 0 * logits, logits)


def test_rows_panel_and_table_say_it_and_keep_it(tmp_path: Any) -> None:
    data, threats = bright_images(200, weak=0, given_up=150), [Threat("linf", 0.1)]
    found = evaluate(Fragile(), data, {"lazy": Lazy()}, threats, options=EvaluationOptions(checks=True))
    check = found.checks[-1]
    assert (check.name, check.passed) == ("early termination", None)  # 13 points: too few for 8
    assert "0 of 20" in check.message
    assert "early termination hides at most 13.5 points (0 of 20 fell under the full budget)" in str(found)
    again = Evaluation.load(found.save(tmp_path))
    assert again.rows == found.rows
    assert again.rows[1].hidden == found.rows[1].hidden
    assert torch.equal(again.per_image[again[1]].audited, found.per_image[found[1]].audited)
    assert "hidden" not in found[0].as_dict()
