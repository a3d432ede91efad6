from __future__ import annotations

import numpy as np
import pytest

from inoculate.core.stats import (
    exceeds_rate,
    mcnemar,
    paired_gain,
    proportion_upper,
    seeds_margin,
    spearman,
    unpaired_gain,
    wilson,
)


@pytest.mark.smoke
def test_wilson_is_the_textbook_interval() -> None:
    # z = 1.96: (0.5 + 0.0192) / 1.0384 = 0.5 and 0.0962 either side
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    # 0 of 10: [0, z² / (n + z²)] = 3.8415 / 13.8415
    assert wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert wilson(10, 10) == pytest.approx((1 - 0.27753, 1.0), abs=1e-5)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0


def test_wilson_widens_with_confidence() -> None:
    low, high = wilson(7, 20)
    wider = wilson(7, 20, confidence=0.99)
    assert wider[0] < low < 0.35 < high < wider[1]


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 4)])
def test_wilson_refuses_impossible_counts(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match="n > 0"):
        wilson(correct, n)


def test_mcnemar_counts_only_flips() -> None:
    # five flips, all towards right: p = 2 · (1/2)^5
    before = np.array([False] * 5 + [True] * 20)
    assert mcnemar(before, np.ones(25, dtype=bool)) == pytest.approx(2 / 32)
    assert mcnemar(before, before) == 1.0
    with pytest.raises(ValueError, match="one shape"):
        mcnemar(before, before[:3])


def test_mcnemar_has_a_direction() -> None:
    before = np.array([False] * 7 + [True] * 57)
    after = np.ones(64, dtype=bool)
    assert mcnemar(before, after, "greater") == pytest.approx(1 / 128)
    assert mcnemar(after, before, "greater") == pytest.approx(1.0)


def test_the_upper_bound_of_a_proportion_is_clopper_and_pearsons() -> None:
    assert proportion_upper(0, 30) == pytest.approx(1 - 0.05 ** (1 / 30))  # "the rule of three": about 3 / n
    assert proportion_upper(1, 2) == pytest.approx(0.95**0.5)  # P(at most 1 of 2) = 1 - p² = 0.05
    assert proportion_upper(0, 0) == proportion_upper(4, 4) == 1.0
    with pytest.raises(ValueError, match="count"):
        proportion_upper(3, 2)


def test_a_rate_is_exceeded_by_the_binomial_tail() -> None:
    assert exceeds_rate(2, 2, 0.1) == pytest.approx(0.01)
    assert exceeds_rate(1, 3, 0.5) == pytest.approx(7 / 8)
    assert exceeds_rate(0, 10, 0.1) == 1.0


def test_paired_gain_is_exact_where_every_image_agrees() -> None:
    before, after = np.zeros((8, 3), dtype=bool), np.ones((8, 3), dtype=bool)
    assert paired_gain(before, after) == (1.0, 1.0, 1.0)
    assert paired_gain(after, after) == (0.0, 0.0, 0.0)


def test_paired_gain_is_the_bootstrap_of_image_means() -> None:
    # 100 images, 20 flip to right, in both cells alike: sd of the mean = sqrt(.2 · .8 / 100) = 0.04
    before = np.zeros(100, dtype=bool)
    after = np.arange(100) < 20
    mean, low, high = paired_gain([before, before], [after, after])
    assert mean == pytest.approx(0.2)
    assert (low, high) == pytest.approx((0.2 - 1.96 * 0.04, 0.2 + 1.96 * 0.04), abs=0.015)
    # a repeated cell is no new evidence: the image is the unit
    assert (mean, low, high) == paired_gain(before, after)


def test_paired_gain_is_seeded() -> None:
    before, after = np.zeros(50, dtype=bool), np.arange(50) < 9
    assert paired_gain(before, after, seed=1) == paired_gain(before, after, seed=1)
    assert paired_gain(before, after, seed=1) != paired_gain(before, after, seed=2)


def test_paired_gain_uses_the_common_prefix() -> None:
    before = [np.zeros(4, dtype=bool), np.zeros(2, dtype=bool)]
    after = [np.array([True, True, False, False]), np.array([True, True])]
    assert paired_gain(before, after)[0] == 1.0


def test_paired_gain_refuses_what_is_not_paired() -> None:
    with pytest.raises(ValueError, match="same number of cells"):
        paired_gain([np.ones(3, dtype=bool)], [])
    with pytest.raises(ValueError, match="at least one image"):
        paired_gain(np.ones(0, dtype=bool), np.ones(0, dtype=bool))


def test_unpaired_gain_is_the_two_proportion_interval() -> None:
    # half width 1.96 · sqrt((.25 + .25) / 200) = 0.098
    assert unpaired_gain(0.5, 0.5, 200) == pytest.approx((0.0, -0.098, 0.098), abs=1e-4)
    with pytest.raises(ValueError, match="n > 0"):
        unpaired_gain(0.5, 0.5, 0)


def test_the_margin_over_seeds_is_the_t_interval() -> None:
    assert seeds_margin([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / 3**0.5, abs=1e-4)
    assert seeds_margin([0.0, 1.0]) == pytest.approx(12.7062 / 2, abs=1e-3)
    assert seeds_margin([0.5, 0.5, 0.5]) == 0


def test_rank_correlation_is_scipys_ties_included():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 5, (4, 30)), rng.normal(size=(4, 30))
    other[1] = one[1] ** 2  # one order
    found = spearman(one, other)
    expected = [spearmanr(*pair).statistic for pair in zip(one, other, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found[1] == pytest.approx(1)
    assert np.isnan(spearman(np.ones((1, 5)), np.arange(5)[None])).all()
