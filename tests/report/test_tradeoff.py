"""What robustness costs: which arms are shown, under what, and what the line joins."""

import itertools

import pytest
from report_samples import clean, row

from inoculate.report.plots.tradeoff import Point, pareto_front, spread, tradeoff_figures
from inoculate.report.results import collect


def results(arms, attacks=("fgsm", "pgd")):
    rows = []
    for number, arm in enumerate(arms):
        rows.append(clean("resnet18", arm, 90 - 5 * number))
        rows += [row(arm=arm, attack=attack, eps=0.03, correct=10 * number + 4 - 2 * (attack == "pgd"))
                 for attack in attacks]  # fmt: skip
    (found,) = collect(rows)
    return found


def test_a_point_per_arm_under_the_strongest_attack(tmp_path):
    arms = ("standard", "fast", "trades")
    (figure,) = tradeoff_figures(results(arms), {("resnet18", "fast"): 120.0}, tmp_path)
    assert "PGD" in figure.caption.alt
    assert "fast 85.0 and 12.0 percent in 120 s" in figure.caption.alt
    assert "fast: 12.0 %, 2.0 min" in figure.svg
    assert list(tmp_path.glob("*.png"))


def test_an_attack_that_only_some_arms_met_is_not_compared(tmp_path):
    rows = list(results(("standard", "fast", "trades")).rows)
    rows.append(row(arm="trades", attack="autoattack", eps=0.03, correct=1))
    (found,) = collect(rows)
    (figure,) = tradeoff_figures(found, {})
    assert "AutoAttack" not in figure.caption.alt


def test_the_papers_own_arms_alone_have_no_such_picture():
    assert not tradeoff_figures(results(("standard", "augmented", "transferred")), {})


def test_the_front_is_what_no_other_beats_in_both():
    points = [Point("a", 90, 0, 1), Point("b", 50, 30, 1), Point("c", 49, 29, 1), Point("d", 60, 30, 1)]
    assert [p.arm for p in pareto_front(points)] == ["d", "a"]
    twice = [Point("a", 50, 30, 1), Point("b", 50, 30, 2)]
    assert len(pareto_front(twice)) == 2


@pytest.mark.parametrize("values", [[5, 5, 5, 5], [0, 0.2, 9.9, 10], [3, 1, 2]])
def test_names_keep_apart_and_inside(values):
    places = spread(values, 1.0, 0.0, 10.0)
    assert sorted(range(len(values)), key=lambda i: values[i]) == sorted(range(len(values)), key=lambda i: places[i])
    ordered = sorted(places)
    assert all(b - a >= 1 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert ordered[0] >= 0
    assert ordered[-1] <= 10
