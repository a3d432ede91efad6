"""`compare`: images paired by their pixels, the test and the interval, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_samples import measured
from torch import nn

from inoculate.attacks.pgd import PGD
from inoculate.core.errors import InputError
from inoculate.core.row import Row
from inoculate.core.stats import holm, mcnemar, paired_difference
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.compare import compare
from inoculate.evaluation.corruptions import corruptions
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.result import Evaluation

LABELS: dict[str, Any] = {"dataset": "d", "arm": "standard", "protocol": "white-box"}


def evaluation(rows: dict[str, str], order: str | None = None, **changes: Any) -> Evaluation:
    """Images called by one letter each that are right (1), wrong (0) or unfinished (?), by attack."""
    marks = next(iter(rows.values()))
    names = order or "abcdefghijklmnopqrstuvwxyz"[: len(marks)]
    per_image: dict[Row, PerSampleResult] = {}
    for attack, each in rows.items():
        eps = 0.0 if attack == "none" else changes.get("eps", 0.1)
        result = PerSampleResult.empty(len(each), eps)
        result.right.copy_(torch.tensor([mark != "0" for mark in each]))
        result.finished.copy_(torch.tensor([mark != "?" for mark in each]))
        per_image[
            result.row(
                **LABELS, model=changes.get("model", "m"), seed=changes.get("seed", 0), attack=attack, norm="linf"
            )
        ] = result
    settings = {name: {"class": "PGD", "steps": changes.get("steps", 10)} for name in rows if name != "none"}
    labels = torch.tensor([changes.get("labels", {}).get(name, ord(name) % 2) for name in names])
    return Evaluation(
        list(per_image), per_image, labels=labels, classes=("even", "odd"), identities=tuple(names),
        provenance={"attacks": settings},
    )  # fmt: skip


OLD = {"none": "11111111", "pgd": "11111110"}


def test_images_are_paired_by_their_pixels_in_any_order() -> None:
    old, new = evaluation(OLD), evaluation({"none": "11111111", "pgd": "10000001"}, order="hgfedcba")
    clean, pgd = compare(old, new)
    assert (clean.n, clean.difference, clean.broken, clean.mended) == (8, 0.0, (), ())
    # new images g f e d c b are broken, image h (number 0) is mended
    assert (pgd.broken, pgd.mended) == ((1, 2, 3, 4, 5, 6), (0,))
    assert (pgd.old_accuracy, pgd.new_accuracy, pgd.difference) == (7 / 8, 2 / 8, -5 / 8)
    expected = mcnemar(np.array([1, 1, 1, 1, 1, 1, 1, 0]), np.array([1, 0, 0, 0, 0, 0, 0, 1]))
    assert pgd.p == pytest.approx(min(1, 2 * expected))


def test_equal_pixels_are_paired_by_label() -> None:
    old = evaluation({"none": "1100"}, order="aabb", labels={"a": 0, "b": 1})
    flipped = replace(old, labels=torch.tensor([0, 1, 0, 1]))
    with pytest.raises(InputError, match="has the label odd, in the new evaluation it has even"):
        compare(flipped, old)
    (change,) = compare(old, old)
    assert (change.n, change.broken, change.p) == (4, (), 1.0)


LOST_10 = {"none": "1" * 26, "pgd": "0" * 10 + "1" * 16}


@pytest.mark.parametrize(
    ("old", "new", "allow", "met"),
    [
        ("1" * 26, "1" * 26, 0.0, True),
        ("1" * 26, "0" * 5 + "1" * 21, 0.0, True),  # 5 of 5: p = 0.0625
        ("1" * 26, "0" * 6 + "1" * 20, 0.0, False),  # 6 of 6: p = 0.03125
        ("1" * 26, "0" * 6 + "1" * 20, 6 / 26, True),  # exactly what is allowed
        ("1" * 26, "0" * 7 + "1" * 19, 6 / 26, False),
        ("1" * 26, "0" * 20 + "1" * 6, 0.5, False),
        ("0" * 26, "1" * 26, 0.0, True),  # better
        ("0" * 13 + "1" * 13, "1" * 13 + "0" * 13, 0.0, True),  # others, and as many
        ("0" + "1" * 25, "1" + "0" * 8 + "1" * 17, 0.0, False),  # 1 against 8: p = 0.039
        ("00" + "1" * 24, "11" + "0" * 8 + "1" * 16, 0.0, True),  # 2 against 8: p = 0.109
    ],
)
def test_verdicts(old: str, new: str, allow: float, met: bool) -> None:
    found = compare(evaluation({"none": old}), evaluation({"none": new}), allow=allow)
    assert found.verdict.met is met
    assert found.as_dict()["worse"] is not met
    assert ("WORSE" in str(found)) is not met


def test_many_rows_do_not_make_an_alarm() -> None:
    old = {"none": "1" * 26, "a": "1" * 26, "b": "1" * 26}
    new = old | {"a": "0" * 6 + "1" * 20}  # p = 0.03125 alone, of three rows 0.094
    found = compare(evaluation(old), evaluation(new))
    assert found.verdict.met
    assert found[1].p == pytest.approx(3 * 2 / 2**6)
    worse = compare(evaluation(old), evaluation(old | {"a": "0" * 9 + "1" * 17}))
    assert [each.name for each in worse.verdict.missed] == ["a linf eps 0.1"]


def test_only_images_that_both_finished_count() -> None:
    (found,) = compare(evaluation({"none": "110?"}), evaluation({"none": "1?00"}))
    assert (found.n, found.broken, found.old_accuracy, found.new_accuracy) == (2, (), 0.5, 0.5)
    with pytest.raises(InputError, match=r"no image was finished under pgd linf eps 0\.1 in both"):
        compare(evaluation({"none": "11", "pgd": "1?"}), evaluation({"none": "11", "pgd": "?1"}))


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (evaluation(OLD, order="bcdefghi"), "1 of 8 images of .* are not in .*, and 1 of 8 the other way"),
        (evaluation({"none": "1111111", "pgd": "1111110"}), "1 of 8 images .* 0 of 7"),
        (evaluation(OLD, labels={"c": 0}), "image 2 .* label odd, in .* even"),
        (evaluation(OLD, seed=1), "seed 0, .* has 1"),
        (evaluation({"none": "11111111"}), "lacks pgd linf eps 0.1"),
        (evaluation(OLD, eps=0.2), "lacks pgd linf eps 0.1"),
        (evaluation(OLD, steps=20), "pgd is steps=10 in .* but steps=20 in"),
        (replace(evaluation(OLD), identities=()), "does not tell its images apart: evaluate again"),
        (replace(evaluation(OLD), provenance={}), "pgd is class=PGD, steps=10 in .* but unknown in"),
    ],
)
def test_what_cannot_be_compared_is_refused(new: Evaluation, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        compare(evaluation(OLD), new)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("allow", [-0.1, 1.5, "1%", True, math.nan])
def test_a_wrong_allowance_is_refused(allow: Any) -> None:
    with pytest.raises(InputError, match="is not a share"):
        compare(evaluation(OLD), evaluation(OLD), allow=allow)


def test_rows_that_only_the_new_one_has_are_named() -> None:
    found = compare(evaluation({"none": "1111"}), evaluation({"none": "1111", "pgd": "1100"}))
    assert [row.attack for row in found.uncompared] == ["pgd"]
    assert "not compared: pgd linf eps 0.1" in str(found)


def test_real_evaluations_from_folders(digits: tuple[nn.Module, Dataset], tmp_path: Path) -> None:
    model, data = digits[0], digits[1].subset(range(60))

    class Worse(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return model(x) * torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 1, 1, 1])

    attacks = {"pgd": PGD(steps=2)}
    old = measured(model, data, attacks, [Threat("linf", 0.02)]).joined(corruptions(model, data, ("fog", "snow"), (2,)))
    worse = Worse()
    new = measured(worse, data, attacks, [Threat("linf", 0.02)]).joined(corruptions(worse, data, ("fog", "snow"), (2,)))
    old.save(tmp_path / "old")
    new.save(tmp_path / "new")
    found = compare(tmp_path / "old", tmp_path / "new")
    assert [change.new.attack for change in found] == ["none", "pgd", "fog", "snow"]
    for change, row in zip(found, [old[0], old[1], old[2], old[3]], strict=True):
        assert set(change.broken) == set(
            (old.per_image[row].right & ~new.per_image[change.new].right).nonzero()[:, 0].tolist()
        )
        assert change.low <= change.difference <= change.high
    assert not found.verdict.met
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["worse"]
    assert "<table>" in found._repr_html_()
    assert compare(tmp_path / "old", tmp_path / "old").verdict.met


def test_the_interval_is_the_published_one() -> None:
    # Newcombe 1998, Table II: 36 both right, 12 lost, 2 gained, 0 neither
    before = np.array([1] * 36 + [1] * 12 + [0] * 2, dtype=bool)
    after = np.array([1] * 36 + [0] * 12 + [1] * 2, dtype=bool)
    difference, low, high = paired_difference(before, after)
    assert (difference, round(-high, 4), round(-low, 4)) == (-0.2, 0.0569, 0.3404)
    assert paired_difference(after, before) == pytest.approx((0.2, -high, -low))


def test_the_interval_has_a_width_without_changes_and_covers() -> None:
    same = np.array([True] * 9 + [False])
    difference, low, high = paired_difference(same, same)
    assert difference == 0
    assert low < 0 < high
    rng, covered, n = np.random.default_rng(0), 0, 80
    for _ in range(2000):
        kinds = rng.choice(4, n, p=[0.5, 0.2, 0.05, 0.25])
        _, low, high = paired_difference(kinds <= 1, (kinds == 0) | (kinds == 2))
        covered += low <= -0.15 <= high
    assert 0.93 <= covered / 2000 <= 0.97
    with pytest.raises(ValueError, match="one shape"):
        paired_difference(same, same[:3])


def test_p_values_are_adjusted_as_holm_says() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
