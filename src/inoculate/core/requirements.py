"""Requirements on accuracies, such as `autoattack@8/255>=0.35`: parsed, checked against a plan, and judged."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, NamedTuple, get_args

from inoculate.core.errors import InputError
from inoculate.core.options import require_one_of
from inoculate.core.row import CERTIFIED, UNION, Row
from inoculate.core.threat import Norm, parse_eps
from inoculate.core.verdict import Outcome, Verdict

Bound = Literal["estimate", "low", "high"]
BOUNDS = ("estimate", "low", "high")
CLEAN, CHECKS = "clean", "checks"
_NORMS = (*get_args(Norm), UNION, "corruption", "spatial")
_WORDS = {"estimate": "accuracy", "low": "lower bound", "high": "upper bound"}
_TERM = re.compile(r"\s*(?P<left>[^<>]*?)\s*(?P<operator>[<>=]+)\s*(?P<value>[0-9.]+)\s*(?P<percent>%?)\s*")
_EXAMPLE = "write it like autoattack@8/255>=0.35, pgd@l2:0.5>=40% or clean>=0.9"


class Cell(NamedTuple):
    """What identifies a number within one evaluation: attack (`none` for clean), norm and size (eps or severity)."""

    attack: str
    norm: str
    size: float

    @classmethod
    def of(cls, row: Row) -> Cell:
        """The cell of a row."""
        return cls(row.attack, row.norm, row.severity or (row.eps if row.attack != "none" and not row.threats else 0.0))

    def __str__(self) -> str:
        if self.attack == "none":
            return CLEAN
        return f"{self.attack}@{self.norm}" + (f":{self.size:.4g}" if self.size else "")


@dataclass(frozen=True)
class Requirement:
    """A least accuracy. Of norm and size None means the only one that was measured; `checks` has no number."""

    text: str
    attack: str
    norm: str | None = None
    size: float | None = None
    least: Fraction = Fraction(0)
    strict: bool = False

    def matches(self, cell: Cell) -> bool:
        """Whether a cell answers it; attacks with options are also found by their first word."""
        if self.attack == CLEAN:
            return cell.attack == "none"
        return (
            self.attack in (cell.attack, cell.attack.split(" ")[0])
            and self.norm in (None, cell.norm)
            and (self.size is None or math.isclose(self.size, cell.size, rel_tol=1e-6))
        )

    def place_in(self, cells: Sequence[Cell]) -> int | None:
        """The place of the one cell that answers it; None without one. Raises `InputError` for several."""
        found = [place for place, cell in enumerate(cells) if self.matches(cell)]
        found = [place for place in found if cells[place].attack == self.attack] or found
        if len(found) > 1 and self.attack != CLEAN:
            raise InputError(
                f"requirement '{self.text}' fits {', '.join(str(cells[place]) for place in found)}: "
                "name one as ATTACK@NORM:EPS"
            )
        return found[0] if found else None

    @property
    def rule(self) -> str:
        """The kind of requirement."""
        if self.attack == CHECKS:
            return CHECKS
        return f"{self.attack if self.attack in (CLEAN, CERTIFIED) else 'robust'}-accuracy"


def parse_requirements(text: str) -> tuple[Requirement, ...]:
    """The requirements in a list separated by commas.

    Each is `ATTACK>=VALUE`, `ATTACK@SIZE>=VALUE`, `ATTACK@NORM>=VALUE` or `ATTACK@NORM:SIZE>=VALUE`. ATTACK is that of
    a row (`autoattack`, `worst-case`, `certified` …) or `clean`; NORM that of a row, such as l2 or `union`; SIZE an eps
    such as 8/255 or the severity of a corruption; VALUE a fraction (0.35) or percent (35%). `>` in place of `>=`
    excludes the value itself. The word `checks` alone requires that no check failed. Raises `InputError` for anything
    else.
    """
    found = tuple(_parse(term.strip()) for term in text.split(","))
    twice = {each.text for each in found if sum(each.text == other.text for other in found) > 1}
    if twice:
        raise InputError(f"requirement '{sorted(twice)[0]}' is given twice")
    return found


def _parse(term: str) -> Requirement:
    if term == CHECKS:
        return Requirement(term, CHECKS)
    parts = _TERM.fullmatch(term)
    if not parts or not parts["left"] or parts["value"].count(".") > 1 or parts["value"] == ".":
        raise InputError(f"requirement '{term}' is not understood: {_EXAMPLE}")
    if parts["operator"] not in (">=", ">"):
        raise InputError(f"requirement '{term}' must set a least accuracy with >= or >: {_EXAMPLE}")
    least, strict = _least(term, parts["value"], parts["percent"]), parts["operator"] == ">"
    if (least == 0 and not strict) or (least == 1 and strict):
        raise InputError(f"requirement '{term}' is {'always' if not least else 'never'} met: {_EXAMPLE}")
    name, at, where = parts["left"].rpartition("@") if "@" in parts["left"] else (parts["left"], "", "")
    whole = where.strip() in _NORMS  # a norm without a size
    norm, colon, size = (where, ":", "") if whole else where.rpartition(":")
    if (name.strip() == CLEAN and at) or not name.strip() or (colon and not norm.strip()):
        raise InputError(f"requirement '{term}' is not understood: {_EXAMPLE}")
    number = parse_eps(size) if at and not whole else None
    return Requirement(term, name.strip(), norm.strip() or None, number, least, strict)


def _least(term: str, value: str, percent: str) -> Fraction:
    least = Fraction(value) / (100 if percent else 1)
    if least > 1:
        cure = f"{value} is more than 100%" if percent else f"write {value}% or {float(Fraction(value) / 100):g}"
        raise InputError(f"requirement '{term}' asks for an accuracy above 1: {cure}")
    return least


def parse_share(text: str) -> float:
    """A share such as `0.01` or `1%` as a number in [0, 1]; raises `InputError` for anything else."""
    parts = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    share = Fraction(parts[1]) / (100 if parts[2] else 1) if parts else None
    if share is None or share > 1:
        raise InputError(f"'{text}' is not a share from 0 to 1: write it like 0.01 or 1%")
    return float(share)


def require_planned(requirements: Iterable[Requirement], cells: Sequence[Cell], checks: bool = True) -> None:
    """Raise `InputError` for a requirement that none of the planned numbers, or several of them, will answer."""
    for each in requirements:
        if each.attack == CHECKS:
            if not checks:
                raise InputError("requirement 'checks' needs the checks: leave --no-checks out")
        elif each.place_in(cells) is None:
            planned = ", ".join(dict.fromkeys(map(str, cells)))
            raise InputError(f"nothing measures what '{each.text}' requires: this run measures {planned}")


def judge(
    requirements: Iterable[Requirement], rows: Sequence[Row], on: Bound = "estimate", checks: Sequence[Any] = ()
) -> Verdict:
    """Judge requirements on rows of one evaluation.

    Args:
        requirements: from `parse_requirements`.
        rows: the measured numbers. A requirement that none answers is not met.
        on: what must reach the required value: the `estimate`, or the `low` or `high` end of the 95 % interval. The low
            end is lowered by what early termination can have hidden.
        checks: the checks of the evaluation.

    Raises `InputError` where several rows answer one requirement.
    """
    require_one_of(BOUNDS, on=on)
    cells = [Cell.of(row) for row in rows]
    outcomes = []
    for each in requirements:
        if each.attack == CHECKS:
            outcomes.append(_judge_checks(each, checks))
            continue
        place = each.place_in(cells)
        if place is None:
            outcomes.append(Outcome(each.text, each.rule, False, f"{each.text}: not measured{_cure(each)}"))
        else:
            outcomes.append(_judge_row(each, rows[place], on))
    return Verdict(tuple(outcomes))


def _cure(missing: Requirement) -> str:
    """How to measure what no attack does."""
    return ": evaluate with `certified`, or certify, at this norm and eps" if missing.attack == CERTIFIED else ""


def _judge_row(requirement: Requirement, row: Row, on: Bound) -> Outcome:
    value = _value(row, on)
    least = requirement.least if on == "estimate" else float(requirement.least)
    met = value > least if requirement.strict else value >= least
    sign = ">" if requirement.strict else ">="
    sentence = (
        f"{Cell.of(row)}: {_WORDS[on]} {_apart(value, least)}, required {sign} {float(100 * least):.6g}% "
        f"({row.correct} of {row.n} right, 95 % interval {row.ci_low:.1%} to {row.ci_high:.1%})"
    )
    facts = {
        "judged_on": on, "value": float(value), "required": float(requirement.least), "strict": requirement.strict,
        "attack": row.attack, "norm": row.norm, "eps": row.eps, "severity": row.severity, "accuracy": row.accuracy,
        "ci_low": row.ci_low, "ci_high": row.ci_high, "correct": row.correct, "n": row.n, "hidden": row.hidden,
        "model": row.model, "dataset": row.dataset, "seed": row.seed,
    }  # fmt: skip
    return Outcome(requirement.text, requirement.rule, met, sentence, facts)


def _value(row: Row, on: Bound) -> Fraction | float:
    """What is compared; the estimate exactly, so that 7 of 20 reach 35 %."""
    if on == "estimate":
        return Fraction(row.correct, row.n)
    return row.ci_high if on == "high" else max(0.0, row.ci_low - (row.hidden or 0.0))


def _judge_checks(requirement: Requirement, checks: Sequence[Any]) -> Outcome:
    failed = [check.name for check in checks if check.passed is False]
    passed = sum(check.passed is True for check in checks)
    words = f"failed: {', '.join(failed)}" if failed else f"{passed} of {len(checks)} passed, none failed"
    sentence = f"checks: {words}" if checks else "checks: not made"
    facts = {"passed": passed, "failed": failed, "made": len(checks)}
    return Outcome(requirement.text, requirement.rule, bool(checks) and not failed, sentence, facts)


def _apart(value: Fraction | float, least: Fraction | float) -> str:
    """A value in percent, with as many decimals as tell it from the required one."""
    digits = next((d for d in range(1, 8) if value == least or f"{float(value):.{d}%}" != f"{float(least):.{d}%}"), 8)
    return f"{float(value):.{digits}%}"
