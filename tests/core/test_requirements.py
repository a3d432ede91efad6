"""Requirements: what is understood, which row answers one, and the verdict on the borderline."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inoculate.core.errors import InputError
from inoculate.core.requirements import Cell, judge, parse_requirements, require_planned
from inoculate.core.row import Row
from inoculate.core.stats import wilson


def row(
    correct: int, n: int = 100, attack: str = "pgd", norm: str = "linf", eps: float = 8 / 255, **more: object
) -> Row:
    labels = {"dataset": "d", "model": "m", "arm": "standard", "protocol": "white-box", "seed": 0}
    return Row.measured(correct=correct, n=n, seconds=1.0, attack=attack, norm=norm, eps=eps, **labels, **more)


CLEAN = row(95, attack="none", eps=0.0)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("text", "attack", "norm", "size", "least", "strict"),
    [
        ("clean>=0.9", "clean", None, None, 0.9, False),
        ("clean >= 90 %", "clean", None, None, 0.9, False),
        ("pgd@8/255>0.35", "pgd", None, 8 / 255, 0.35, True),
        ("pgd@l2:0.5>=40%", "pgd", "l2", 0.5, 0.4, False),
        ("foolbox:PGD@linf:0.1>=.5", "foolbox:PGD", "linf", 0.1, 0.5, False),
        ("gaussian_noise@3>=50%", "gaussian_noise", None, 3, 0.5, False),
        ("pgd restarts=5@0.1>=5%", "pgd restarts=5", None, 0.1, 0.05, False),
        ("pgd@union>=30%", "pgd", "union", None, 0.3, False),
        ("pgd@ l2 >=30%", "pgd", "l2", None, 0.3, False),
        ("worst-case@linf:4/255>=1", "worst-case", "linf", 4 / 255, 1, False),
    ],
)
def test_what_is_understood(text: str, attack: str, norm: str, size: float, least: float, strict: bool) -> None:
    (found,) = parse_requirements(text)
    assert (found.attack, found.norm, found.size, found.strict) == (attack, norm, size, strict)
    assert float(found.least) == pytest.approx(least, abs=1e-15)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not understood"),
        ("pgd", "not understood"),
        ("pgd@8/255>=", "not understood"),
        (">=0.5", "not understood"),
        ("@8/255>=0.5", "not understood"),
        ("pgd@:0.5>=0.5", "not understood"),
        ("clean@0>=0.5", "not understood"),
        ("clean>=0.9,", "not understood"),
        ("clean>=0.9.1", "not understood"),
        ("clean>=-0.1", "not understood"),
        ("clean>=nan", "not understood"),
        ("clean<=0.5", "with >= or >"),
        ("clean==0.5", "with >= or >"),
        ("clean=>0.5", "with >= or >"),
        ("clean>=35", "write 35% or 0.35"),
        ("clean>=101%", "more than 100%"),
        ("clean>=0", "always met"),
        ("clean>100%", "never met"),
        ("pgd@eight>=0.5", "eps 'eight'"),
        ("clean>=0.9,clean>=0.9", "twice"),
        ("pgd@8/255>=0,35", "always met"),  # a decimal comma
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        parse_requirements(text)
    assert "\n" not in str(caught.value)


LOW, HIGH = wilson(35, 100)


@pytest.mark.parametrize(
    ("rows", "text", "on", "met"),
    [
        ([row(35)], "pgd>=0.35", "estimate", True),
        ([row(34)], "pgd>=0.35", "estimate", False),
        ([row(35)], "pgd>0.35", "estimate", False),
        ([row(7, 20)], "pgd>=35%", "estimate", True),
        ([row(7, 20)], "pgd>35%", "estimate", False),
        ([row(333, 1000)], "pgd>=33.3%", "estimate", True),
        ([row(1, 3)], "pgd>=33.3333333333333333%", "estimate", True),
        ([row(1, 3)], "pgd>=33.3333333333333334%", "estimate", False),
        ([row(3, 10)], "pgd>=0.3", "estimate", True),
        ([row(35)], "pgd>=0.35", "low", False),
        ([row(35)], f"pgd>={LOW!r}", "low", True),
        ([row(35)], f"pgd>{LOW!r}", "low", False),
        ([row(35)], f"pgd>={LOW + 1e-9!r}", "low", False),
        ([row(35)], f"pgd>={LOW - 1e-9!r}", "low", True),
        ([row(35)], f"pgd>={HIGH!r}", "high", True),
        ([row(35)], f"pgd>={HIGH + 1e-9!r}", "high", False),
        ([row(100)], "pgd>=100%", "estimate", True),
        ([row(100)], "pgd>=100%", "low", False),
        ([row(0)], "pgd>0%", "estimate", False),
        ([row(0)], "pgd>=3.6%", "high", True),
        ([row(35, hidden=0.0)], f"pgd>={LOW!r}", "low", True),
        ([row(35, hidden=0.02)], f"pgd>={LOW!r}", "low", False),
        ([row(35, hidden=0.02)], "pgd>=0.35", "estimate", True),
        ([row(60, attack="autoattack"), row(20)], "autoattack@8/255>=50%", "estimate", True),
        ([row(60, eps=0.01), row(20)], "pgd@linf:8/255>=50%", "estimate", False),
        ([row(60, norm="l2", eps=0.5), row(20, eps=0.5)], "pgd@l2:0.5>=50%", "estimate", True),
        ([row(20, attack="pgd restarts=5")], "pgd@8/255>=50%", "estimate", False),
        ([row(60, attack="fog", norm="corruption", eps=0.0, severity=3)], "fog@3>=50%", "estimate", True),
        ([row(60, attack="fog", norm="corruption", eps=0.0, severity=3)], "fog@corruption:3>=0.7", "estimate", False),
        ([row(60), row(20, norm="union", eps=1.0, threats="linf 0.1, l2 1")], "pgd@union>=50%", "estimate", False),
        ([row(60), row(20, norm="union", eps=1.0, threats="linf 0.1, l2 1")], "pgd@linf>=50%", "estimate", True),
        ([CLEAN], "clean>=95%", "estimate", True),
        ([CLEAN], "pgd@8/255>=1%", "estimate", False),  # not measured
        ([row(60, attack="certified")], "certified@8/255>=60%", "estimate", True),
    ],
)
def test_verdicts(rows: list[Row], text: str, on: str, met: bool) -> None:
    verdict = judge(parse_requirements(text), rows, on)  # type: ignore[arg-type]
    assert verdict.met is met
    assert bool(verdict) is met
    assert verdict.line.startswith("met: " if met else "missed: ")
    assert "\n" not in verdict.line


def test_one_missed_requirement_misses_the_gate() -> None:
    verdict = judge(parse_requirements("clean>=0.9,pgd>=0.5"), [CLEAN, row(35)])
    assert [each.met for each in verdict.outcomes] == [True, False]
    assert not verdict.met
    assert verdict.line.startswith("missed: 1 of 2 requirements: pgd@linf:0.03137: accuracy 35.0%, required >= 50%")
    assert [each.name for each in verdict.missed] == ["pgd>=0.5"]


def test_a_near_miss_does_not_read_like_a_hit() -> None:
    (outcome,) = judge(parse_requirements("pgd>=35%"), [row(34_999, 100_000)]).outcomes
    assert "accuracy 34.999%, required >= 35%" in outcome.sentence


def test_rows_that_a_requirement_does_not_tell_apart_are_refused() -> None:
    rows = [row(60, eps=0.01), row(20)]
    with pytest.raises(InputError, match=r"fits pgd@linf:0.01, pgd@linf:0.03137: name one"):
        judge(parse_requirements("pgd>=50%"), rows)
    exact = judge(parse_requirements("pgd@8/255>=50%"), [row(20, attack="pgd restarts=5"), row(60)])
    assert exact.met, "the row of the very name, not the one that begins with it"


def test_an_unknown_bound_is_refused() -> None:
    with pytest.raises(InputError, match="on 'lower' is unknown"):
        judge(parse_requirements("clean>=0.5"), [CLEAN], "lower")  # type: ignore[arg-type]


def test_a_plan_that_does_not_answer_a_requirement_is_refused() -> None:
    cells = [Cell("none", "", 0.0), Cell("pgd", "linf", 8 / 255)]
    require_planned(parse_requirements("clean>=0.9,pgd@8/255>=0.3,checks"), cells)
    with pytest.raises(
        InputError, match=r"nothing measures what 'pgd@4/255>=0.3' requires: .* clean, pgd@linf:0.03137"
    ):
        require_planned(parse_requirements("pgd@4/255>=0.3"), cells)
    with pytest.raises(InputError, match="leave --no-checks out"):
        require_planned(parse_requirements("checks"), cells, checks=False)


def test_the_facts_of_a_verdict_are_the_row() -> None:
    found = replace(row(35), hidden=0.01)
    (outcome,) = judge(parse_requirements("pgd>=0.3"), [found], "low").as_dict()["outcomes"]
    assert outcome["value"] == pytest.approx(found.ci_low - 0.01)
    assert {name: outcome[name] for name in ("correct", "n", "ci_low", "judged_on", "required", "met")} == {
        "correct": 35, "n": 100, "ci_low": found.ci_low, "judged_on": "low", "required": 0.3, "met": False,
    }  # fmt: skip
