"""`Evaluation.require`, what several attacks leave together, and what the numbers were made from."""

from __future__ import annotations

import json
from typing import Any

import torch
from evaluation_samples import measured
from torch import nn

from inoculate.artifacts.specs import described
from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.pgd import PGD
from inoculate.core.requirements import Cell
from inoculate.core.row import Row
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.checks import Check
from inoculate.evaluation.combined import combined_rows
from inoculate.evaluation.corruptions import corruptions
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.planned import planned_cells
from inoculate.evaluation.provenance import image_identities
from inoculate.evaluation.result import Evaluation
from inoculate.evaluation.spatial import Movements, spatial
from inoculate.models.identity import weights_digest


def evaluation(outcomes: dict[tuple[str, str, float], str], checks: list[Check] | None = None) -> Evaluation:
    """Images that are right (1), wrong (0), unfinished (?) or ended early (t), by attack, norm and eps."""
    per_image: dict[Row, PerSampleResult] = {}
    for (attack, norm, eps), marks in outcomes.items():
        result = PerSampleResult.empty(len(marks), eps)
        result.right.copy_(torch.tensor([mark != "0" for mark in marks]))
        result.finished.copy_(torch.tensor([mark != "?" for mark in marks]))
        result.terminated.copy_(torch.tensor([mark == "t" for mark in marks]))
        labels: dict[str, Any] = {"dataset": "d", "model": "m", "arm": "standard", "protocol": "white-box", "seed": 0}
        per_image[result.row(**labels, attack=attack, norm=norm)] = result
    n = len(next(iter(outcomes.values())))
    return Evaluation(list(per_image), per_image, checks or [], labels=torch.zeros(n, dtype=torch.int64))


FOUND = {
    ("none", "linf", 0.0): "1111",
    ("a", "linf", 0.1): "1101",
    ("b", "linf", 0.1): "0111",
    ("a", "l2", 1.0): "1110",
}


def test_an_image_counts_in_the_worst_case_if_no_attack_breaks_it() -> None:
    combined = {str(Cell.of(row)): (row.correct, row.n) for row in combined_rows(evaluation(FOUND).per_image)}
    assert combined == {"worst-case@linf:0.1": (2, 4), "worst-case@l2:1": (3, 4), "worst-case@union": (1, 4)}
    found = evaluation(FOUND)
    assert found.require("worst-case@linf:0.1>=50%,worst-case@union>=25%,clean>=100%,b@0.1>=75%")
    assert not found.require("worst-case@linf:0.1>50%")
    assert not found.require("worst-case@union>=26%")


def test_images_that_an_attack_did_not_finish_do_not_count() -> None:
    found = evaluation({("none", "linf", 0.0): "1111", ("a", "linf", 0.1): "1?0?", ("b", "linf", 0.1): "110?"})
    (worst,) = combined_rows(found.per_image)
    assert (worst.correct, worst.n) == (1, 2)
    nothing = evaluation({("none", "linf", 0.0): "11", ("a", "linf", 0.1): "1?", ("b", "linf", 0.1): "?1"})
    assert combined_rows(nothing.per_image) == []
    assert nothing.require("worst-case>=1%").line == "missed: worst-case>=1%: not measured"


def test_the_word_checks_requires_that_none_failed() -> None:
    passed, failed, unmade = Check("a", True, "-"), Check("b", False, "-"), Check("c", None, "-")
    assert evaluation(FOUND, [passed, unmade]).require("checks")
    verdict = evaluation(FOUND, [passed, failed]).require("checks,clean>=1%")
    assert verdict.line == "missed: 1 of 2 requirements: checks: failed: b"
    assert evaluation(FOUND).require("checks").line == "missed: checks: not made"


def test_early_termination_lowers_the_lower_bound() -> None:
    found = evaluation({("none", "linf", 0.0): "1111", ("a", "linf", 0.1): "t1t0", ("b", "linf", 0.1): "t111"})
    row, other = found.rows[1:]
    assert row.hidden == 0.5
    (outcome,) = found.require("a@0.1>=99%", "low").outcomes
    assert outcome.facts["value"] == max(0.0, row.ci_low - 0.5)
    worst = combined_rows(found.per_image)[0]
    assert other.hidden == 0.25
    assert worst.hidden == 0.75, "what each attack can hide adds up"


def test_the_plan_names_every_row_that_is_measured(digits: tuple[nn.Module, Dataset]) -> None:
    model, data = digits[0], digits[1].subset(range(8))
    threats, movements = (
        [Threat("linf", 0.02), Threat("l2", 0.5), Threat("linf", 0.1)],
        Movements(10, 1, rotations=3, shifts=3),
    )
    found = measured(model, data, ["fgsm", "pgd"], threats)
    found = found.joined(corruptions(model, data, ("fog", "contrast"), (1, 5)))
    found = found.joined(spatial(model, data, movements))
    planned = {(cell.attack, cell.size) for cell in planned_cells(
        ["fgsm", "pgd"], threats, (("fog", "contrast"), (1, 5)), movements)}  # fmt: skip
    rows = [*found, *combined_rows(found.per_image)]
    assert {(cell.attack, cell.size) for cell in map(Cell.of, rows)} == planned
    assert found.require("fog@5>=0.1%,pgd@union>=0.1%,worst-case@union>=0.1%,mean_corruption>=0.1%,spatial_grid>=0.1%")


def test_provenance_survives_saving(digits: tuple[nn.Module, Dataset], tmp_path: Any) -> None:
    model, data = digits[0], digits[1].subset(range(6))
    found = measured(model, data, {"mine": PGD(steps=3)}, [Threat("l2", 0.5)])
    assert found.provenance["attacks"]["mine"]["class"] == "PGD"
    assert found.provenance["attacks"]["mine"]["steps"] == 3
    assert found.provenance["threats"][0]["norm"] == "l2"
    assert found.provenance["data"]["digest"] == data.digest
    assert found.provenance["model"]["digest"] == weights_digest(model)
    assert found.provenance["versions"]["torch"]
    back = Evaluation.load(found.save(tmp_path))
    assert back.provenance == json.loads(json.dumps(found.provenance))
    assert back.identities == found.identities == image_identities(data)
    assert len(set(back.identities)) == 6


def test_digests_change_with_what_they_name(digits: tuple[nn.Module, Dataset]) -> None:
    model, data = nn.Linear(3, 2), digits[1].subset(range(4))
    before = weights_digest(model)
    with torch.no_grad():
        model.bias[1] += 1e-6
    assert weights_digest(model) not in (before, None)
    assert weights_digest(nn.Flatten()) is None
    pixels = data.images.clone()
    pixels[2, 0, 0, 0] ^= 1
    other = image_identities(Dataset.from_tensors(pixels, data.labels, data.classes))
    assert [one == two for one, two in zip(image_identities(data), other, strict=True)] == [True, True, False, True]


def test_attacks_are_described_without_addresses_in_memory() -> None:
    texts = [
        json.dumps(described(each), allow_nan=False) for each in (AutoAttack(), FGSM(), PGD(), print, {"a": [1e999]})
    ]
    assert not any("0x" in text for text in texts)
    assert '"inf"' in texts[-1]
