from __future__ import annotations

import numpy as np
from report_samples import clean, row

from inoculate.core.row import Row
from inoculate.report.claims import claims

SURROGATE = {"mnist": "resnet18"}


def outcomes(rows: list[Row]) -> dict[str, np.ndarray]:
    """The first `correct` images are right: differences are then easy to see."""
    return {item.key: np.arange(item.n) < item.correct for item in rows}


def test_a_claim_is_one_sentence_with_its_interval() -> None:
    rows = [row("resnet50", correct=0), row("resnet50", "transferred", correct=100)]
    found = claims(rows, outcomes(rows), SURROGATE)
    assert [claim.sentence for claim in found] == [
        "MNIST (a) white-box: supported. Training on resnet18's examples raised the accuracy of the other networks "
        "(resnet50) on FGSM images crafted anew against each network: +100.0 points [100.0, 100.0] "
        "(100 images, 1 seed)."
    ]
    assert (found[0].dataset, found[0].letter, found[0].reading, found[0].verdict) == (
        "mnist", "a", "white-box", "supported",
    )  # fmt: skip


def test_the_interval_decides() -> None:
    for after, verdict, verb in (
        (90, "supported", "raised"), (10, "contradicted", "lowered"), (50, "not decided", "did not clearly change"),
    ):  # fmt: skip
        rows = [clean("resnet50", "standard", 50), clean("resnet50", "transferred", after), row("resnet50")]
        (claim,) = claims(rows, outcomes(rows), SURROGATE)
        assert (claim.letter, claim.verdict) == ("d", verdict)
        assert f"{verb} the accuracy of resnet50 on clean images: {after - 50:+.1f} points" in claim.sentence


def test_with_several_seeds_the_interval_covers_their_variation() -> None:
    def gain_of(*gains: int, model: str = "resnet50") -> list[Row]:
        rows = [row(model, correct=20, seed=seed) for seed in range(len(gains))]
        return rows + [row(model, "transferred", correct=20 + gain, seed=seed) for seed, gain in enumerate(gains)]

    def sentence(rows: list[Row]) -> str:
        return claims(rows, outcomes(rows), SURROGATE)[0].sentence

    # gains of 0, 10 and 20 points: 10 ± 4.303 · 10 / sqrt(3); over images alone 10 ± 3
    assert "+10.0 points [-14.8, 34.8] (100 images, 3 seeds)" in sentence(gain_of(0, 10, 20))
    assert "+10.0 points [4.0, 16.0] (100 images, 3 seeds)" in sentence(gain_of(10, 10, 10))
    # another network has one seed and gains more: it counts as much, and that is no variation between seeds; of the
    # images 10 gain 1, 40 gain 0.5: 30 ± 1.96 · sqrt(0.11 / 100)
    assert "+30.0 points [23.5, 36.5] (100 images, 3 seeds)" in sentence(
        gain_of(10, 10, 10) + gain_of(50, model="resnet101")
    )


def test_without_records_the_counts_speak_and_say_so() -> None:
    rows = [row("resnet50", correct=50), row("resnet50", "transferred", correct=60)]
    (claim,) = claims(rows, None, SURROGATE)
    # 1.96 · sqrt((.25 + .24) / 100) = 13.7 points
    assert "+10.0 points [-3.7, 23.7] (100 images, 1 seed, unpaired interval from the counts)" in claim.sentence
    assert claim.verdict == "not decided"
    (paired,) = claims(rows, outcomes(rows), SURROGATE)
    assert paired.verdict == "supported"


def test_replayed_starts_from_the_networks_own_white_box_row() -> None:
    rows = [
        row("resnet50", correct=20),
        row("resnet50", "transferred", correct=80, protocol="transfer:resnet50/standard"),
        row("resnet50", correct=70, protocol="transfer:resnet18/standard"),
        row("resnet50", "transferred", correct=90, protocol="transfer:resnet18/standard"),
    ]
    found = {claim.reading: claim.sentence for claim in claims(rows, outcomes(rows))}
    assert "FGSM images crafted on each network before its retraining: +60.0 points" in found["replayed"]
    assert "FGSM images crafted on resnet18: +20.0 points" in found["surrogate's"]


def test_bigger_nets_by_name_or_by_parameters() -> None:
    rows = [row("resnet18", correct=10), row("resnet50", correct=30), row("resnet101", correct=80)]
    (claim,) = claims(rows, outcomes(rows), SURROGATE)
    assert claim.verdict == "supported"
    assert "the largest network, resnet101, differs from the smallest, resnet18" in claim.sentence
    assert "rises with every step in size (resnet18 10.0 %, resnet50 30.0 %, resnet101 80.0 %)" in claim.sentence
    (claim,) = claims(rows, outcomes(rows), SURROGATE, {"resnet101": 1, "resnet50": 2, "resnet18": 3})
    assert claim.verdict == "contradicted"
    (claim,) = claims(rows, outcomes(rows), SURROGATE, {"resnet50": 1, "resnet18": 2, "resnet101": 3})
    assert claim.verdict == "not decided"  # better at the ends, but not at every step
    assert "does not rise with every step" in claim.sentence


def test_the_method_must_beat_every_control() -> None:
    rows = [
        row("resnet50", "standard", correct=20),
        row("resnet50", "duplicates", correct=70),
        row("resnet50", "noise", correct=30),
        row("resnet50", "transferred", correct=70),
    ]
    claim = claims(rows, outcomes(rows), SURROGATE)[-1]
    assert (claim.letter, claim.verdict) == ("controls", "not decided")
    assert "Of the +50.0 points" in claim.sentence
    assert "+0.0 [0.0, 0.0] over training on clean copies and +40.0 [" in claim.sentence
    (only,) = [claim for claim in claims(rows[:1] + rows[2:], None, SURROGATE) if claim.letter == "controls"]
    assert only.verdict == "supported"
    assert "clean copies" not in only.sentence


def test_pgd_on_the_first_images_is_paired_on_them() -> None:
    rows = [
        row("resnet50", attack="pgd", correct=0, n=20),
        row("resnet50", "transferred", "pgd", correct=20, n=40),
        row("resnet50", correct=50),
    ]
    (claim,) = [claim for claim in claims(rows, outcomes(rows), SURROGATE) if claim.reading == "white-box, PGD"]
    assert "PGD images crafted anew against each network: +100.0 points [100.0, 100.0] (20 images" in claim.sentence


def test_only_seeds_and_eps_of_both_arms_are_compared() -> None:
    rows = [
        row("resnet50", correct=10, seed=0),
        row("resnet50", correct=30, seed=1),
        row("resnet50", correct=99, seed=2),
        row("resnet50", correct=99, eps=0.02),
        row("resnet50", "transferred", correct=30, seed=0),
        row("resnet50", "transferred", correct=70, seed=1),
    ]
    (claim,) = claims(rows, outcomes(rows), SURROGATE)
    assert "+30.0 points" in claim.sentence
    assert "(100 images, 2 seeds)" in claim.sentence


def test_a_full_study_says_few_things() -> None:
    rows = []
    for model in ("resnet18", "resnet50", "resnet101"):
        for place, arm in enumerate(("standard", "duplicates", "noise", "augmented", "transferred")):
            rows.append(clean(model, arm, 95))
            protocols = ("white-box", f"transfer:{model}/standard", "transfer:resnet18/standard")
            rows += [row(model, arm, correct=40 + place, protocol=protocol) for protocol in protocols]
            rows.append(row(model, arm, "pgd", correct=place))
    letters = [claim.letter for claim in claims(rows, outcomes(rows))]
    assert letters == ["a"] * 4 + ["b"] * 4 + ["c", "d"] + ["controls"] * 4
    assert claims([]) == []
    assert claims([clean("resnet18", "standard", 3)]) == []
