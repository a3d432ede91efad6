from __future__ import annotations

import numpy as np
from report_samples import clean, row

from inoculate.core.row import Row
from inoculate.report.answers import is_it_robust
from inoculate.report.headline import headline
from inoculate.report.ladder import ladder_of
from inoculate.report.results import collect
from inoculate.report.tables.latex import to_latex
from inoculate.report.tables.paper import paper_tables
from inoculate.report.tables.transfer import ANEW, transfer_heatmaps

REPLAYED = "transfer:resnet50/standard"


def lead(*rows: Row) -> str:
    (results,) = collect(rows, {"mnist": "resnet18"})
    return headline(results, {each.key: np.arange(each.n) < each.correct for each in rows}).lead


def arm(name: str, white: int, replayed: int, pgd: int | None = None) -> list[Row]:
    rows = [row("resnet50", name, correct=white), row("resnet50", name, correct=replayed, protocol=REPLAYED)]
    return rows + ([row("resnet50", name, "pgd", correct=pgd)] if pgd is not None else [])


BEFORE = [clean("resnet50", "standard", 95), row("resnet50", correct=40), row("resnet50", attack="pgd", correct=5)]


def test_protection_against_replayed_examples_only_is_said_first() -> None:
    assert lead(*BEFORE, *arm("transferred", 40, 90)) == "Transfer training protects against replayed examples only."
    worse = lead(*BEFORE, *arm("transferred", 10, 90))
    assert worse.endswith("On images crafted anew the networks lose 30.0 points (FGSM, eps 0.01).")
    controls = lead(*BEFORE, *arm("transferred", 40, 90), *arm("duplicates", 80, 92))
    assert controls.startswith("Transfer training protects against replayed examples only.")
    assert "Without any adversarial example, training on clean copies gains as much, as far as can be told." in controls


def test_what_a_gain_holds_against() -> None:
    assert "harder to fool, also for an attacker who sees them" in lead(*BEFORE, *arm("transferred", 90, 95, 60))
    assert "helps against FGSM, but not measurably against PGD" in lead(*BEFORE, *arm("transferred", 90, 95, 5))
    by_retraining = lead(*BEFORE, *arm("transferred", 90, 95, 60), *arm("noise", 92, 96))
    assert "by the retraining, not by its adversarial examples" in by_retraining
    assert "random noise of the same size" in by_retraining
    mostly = lead(*BEFORE, *arm("transferred", 55, 95, 60), *arm("augmented", 70, 80))
    assert "examples only: +55.0 points there, +15.0 on images crafted anew (FGSM, eps 0.01)." in mostly
    assert mostly.endswith("Without any adversarial example, augmentation alone gains clearly more.")
    several = lead(*BEFORE, *arm("transferred", 55, 95), *arm("duplicates", 55, 80), *arm("noise", 56, 80))
    both = (
        "Without any adversarial example, training on clean copies or training on random noise of the same size gains"
    )
    assert both in several
    assert lead(*BEFORE, *arm("transferred", 40, 40)) == "Transfer training does not measurably protect."


def test_the_numbers_stand_below_with_the_papers() -> None:
    rows = [*BEFORE, *arm("transferred", 40, 90), *arm("duplicates", 80, 92)]
    (results,) = collect(rows)
    said = " ".join(headline(results).rest)
    assert "Before any hardening resnet50 gets 95.0 % of clean images right, and 40.0 % of FGSM images" in said
    assert "(replayed) accuracy rises: +50.0 points [" in said
    assert "the method's own share is -2.0 points" in said
    assert "The paper reports 39.5 % before and a gain of +41.5 points." in said


def test_without_transfer_training_the_hardest_attack_speaks() -> None:
    assert lead(*BEFORE) == "The model keeps 5.0 % under PGD at eps 0.01."
    others = [row("resnet50", "trades", "pgd", correct=50), row("resnet18", attack="pgd", correct=2)]
    assert lead(*BEFORE, *others) == "The most fragile network keeps 2.0 % under PGD at eps 0.01."
    assert lead(clean("resnet50", "standard", 95)) == "No attack has been measured."


def test_of_attacks_that_leave_as_much_the_strongest_is_named() -> None:
    equal = [row("resnet50", attack=attack, correct=40) for attack in ("square", "autoattack", "pgd", "fgsm")]
    rows = [clean("resnet50", "standard", 95), *equal]
    assert lead(*rows) == "The model keeps 40.0 % under AutoAttack at eps 0.01."
    (results,) = collect(rows)
    assert "40.0 % [30.9, 49.8] under AutoAttack" in is_it_robust(ladder_of(results)).text


def test_who_fools_whom_before_and_after() -> None:
    rows = [
        row("a", correct=10), row("b", correct=20), row("b", correct=60, protocol="transfer:a/standard"),
        row("a", "transferred", correct=30), row("a", "transferred", correct=80, protocol="transfer:a/standard"),
        row("b", "transferred", correct=40), row("b", "transferred", correct=90, protocol="transfer:a/standard"),
        row("b", "transferred", correct=95, protocol="transfer:b/standard"),
    ]  # fmt: skip
    before, after = transfer_heatmaps(collect(rows)[0])
    assert before.columns == after.columns == ("a", "b")
    assert before.rows == [("a", [0.1, 0.6]), ("b", [None, 0.2])]
    assert after.rows == [("a", [0.8, 0.9]), ("b", [None, 0.95]), (ANEW, [0.3, 0.4])]
    assert transfer_heatmaps(collect(rows[:2])[0]) == []
    assert transfer_heatmaps(collect([clean("a", "standard", 3)])[0]) == []


def test_tables_for_papers_are_latex() -> None:
    text = to_latex(paper_tables([row("my_net", correct=40), clean("my_net", "standard", 97)]))
    assert text.count(r"\begin{tabular}") == text.count(r"\bottomrule") == 3
    assert r"my\_net & 0.01 & 40.0 [30.9, 49.8] & -- &  \\" in text
    assert "\\midrule\nmean & " in text
    assert "95 \\% Wilson intervals" in text
