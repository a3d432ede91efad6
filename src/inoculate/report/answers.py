"""The head of a page in words: questions that a reader brings, each answered from the rows in a sentence or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inoculate.core.groups import GroupAccuracy
from inoculate.core.row import CERTIFIED
from inoculate.report.failures import Failure
from inoculate.report.formatting import attack_name, norm_name, percent
from inoculate.report.ladder import Bar, Ladder, Rung
from inoculate.report.results import Results

WEAK = {"fgsm", "bim", "mifgsm", "deepfool"}  # attacks that a model may withstand without being robust
HOLDS, BROKEN = 0.5, 0.1  # of the clean accuracy


@dataclass(frozen=True)
class Answer:
    """A question with its answer: a short verdict, the sentence with its numbers, and where to read on (an id)."""

    question: str
    verdict: str
    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Badge:
    """The checks in one line; `state` is `good`, `bad` or `open`."""

    state: str
    text: str


def badge_of(checks: Sequence[Mapping[str, Any]]) -> Badge:
    """Whether the checks of all runs of a page passed."""
    passed, failed = ([check for check in checks if check["passed"] is verdict] for verdict in (True, False))
    if failed:
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        return Badge("bad", f"Check failed: {failed[0]['name']}{more}")
    if not passed:
        return Badge("open", "Not checked for masked gradients")
    rest = len(checks) - len(passed)
    return Badge(
        "good", f"{len(passed)} check{'s' * (len(passed) > 1)} passed" + (f", {rest} not made" if rest else "")
    )


def is_it_robust(ladder: Ladder, who: str = "") -> Answer:
    """For one network: how much of its clean accuracy is left as eps grows."""
    question, attacked = "Is it robust?", [rung for rung in ladder.attacked if rung.bars[0]]
    clean = _clean(ladder)
    if not attacked or clean is None:
        return Answer(question, "Not measured", "No attack has been measured.")
    last = min(reversed(attacked), key=lambda rung: (-rung.eps, _accuracy(rung.bars[0])))
    bar = last.bars[0]
    assert bar is not None
    low, high = bar.interval or (bar.accuracy, bar.accuracy)
    text = (
        f"{who or 'It'} classifies {percent(clean.accuracy)} % of clean images correctly, and "
        f"{percent(bar.accuracy)} % ({percent(low)} to {percent(high)}) under {attack_name(bar.attack)} at eps "
        f"{last.eps:.3g}."
    )
    return Answer(question, _robust_verdict(ladder, attacked, clean), text)


def _robust_verdict(ladder: Ladder, attacked: Sequence[Rung], clean: Bar) -> str:
    if set(ladder.attacks) <= WEAK:
        return "Not shown: only weak attacks were run"
    lowest: dict[float, float] = {}
    for rung in attacked:
        lowest[rung.eps] = min(lowest.get(rung.eps, 1.0), _accuracy(rung.bars[0]))
    held = [eps for eps, value in sorted(lowest.items()) if value >= HOLDS * clean.accuracy]
    if len(held) == len(lowest):
        return "Largely, at the sizes measured"
    if held:
        return f"Up to eps {max(held):.3g}, not beyond"
    return "No" if min(lowest.values()) <= BROKEN * clean.accuracy else "Weakly"


def better_than_before(ladder: Ladder) -> Answer:
    """For a hardened network: the strongest attack before and after, and the price in clean accuracy."""
    question = "Is it robust?"
    attacked = [rung for rung in ladder.attacked if all(rung.bars[:2])]
    clean = [bar for bar in ladder.rungs[0].bars[:2] if bar] if ladder.rungs else []
    if not attacked or len(clean) < 2 or len(ladder.sides) < 2:
        return Answer(question, "Not measured", "No attack has been measured before and after.")
    worst = min(reversed(attacked), key=lambda rung: (-rung.eps, _accuracy(rung.bars[1])))
    before, after = (_accuracy(bar) for bar in worst.bars[:2])
    verdict = "More than before" if after > before else "Not more than before"
    verdict += "" if after >= HOLDS * clean[1].accuracy else ", still weak" if after > before else ""
    text = (
        f"Under {worst.attack} at eps {worst.eps:.3g} it keeps {percent(after)} %; before hardening "
        f"{percent(before)} %. On clean images: {percent(clean[1].accuracy)} %, before {percent(clean[0].accuracy)} %."
    )
    return Answer(question, verdict, text)


def against_what(results: Results, images: str) -> Answer:
    """The threat model: attacks, norm, eps and images."""
    attacks = results.attacks
    if not attacks:
        return Answer("Against what?", "Nothing yet", f"Clean accuracy only, on {images}.")
    sizes = sorted({eps for attack in attacks for eps in results.epsilons(attack)})
    listed = ", ".join(f"{eps:.3g}" for eps in sizes[:6]) + (" …" if len(sizes) > 6 else "")
    unit = (
        "every pixel moves by at most eps (1 = full range)"
        if results.norm == "linf"
        else f"distance in {norm_name(results.norm)}"
    )
    white = any(row.protocol == "white-box" for row in results.rows if row.attack in attacks)
    knows = "The attacker knows the network" if white else "Examples of other networks"
    proved = " A lower bound is proved as well." if CERTIFIED in results.conditions else ""
    names = ", ".join(map(attack_name, attacks))
    text = f"{knows}; {unit}, eps {listed}; {images}.{proved}"
    return Answer("Against what?", f"{names}, {norm_name(results.norm)}", text, "glossary")


def can_i_believe_it(
    badge: Badge, ladder: Ladder, warnings: Sequence[str], seeds: int = 1, hidden: float = 0.0
) -> Answer:
    """The checks, the precision of the numbers, and the warnings of the run.

    `hidden` is the most accuracy that attacks can have left by ending runs early: said where it is the larger doubt.
    """
    verdict = {"good": "Yes, as far as was checked", "bad": "No, not before the failed check is resolved"}
    bars = [bar for rung in ladder.rungs for bar in rung.bars if bar and bar.interval]
    widest = max((100 * (bar.interval[1] - bar.interval[0]) / 2 for bar in bars if bar.interval), default=0.0)
    parts = [f"{badge.text}."]
    if widest:
        images = min(bar.n for bar in bars)
        parts.append(f"With {images:,} images, the numbers are precise to about ±{widest:.0f} points.")
    elif ladder.rungs:
        fewest = min(bar.n for rung in ladder.rungs for bar in rung.bars if bar)
        parts.append(f"At least {fewest:,} images and {seeds} training seed{'s' * (seeds > 1)} behind each number.")
    if 100 * hidden > widest:
        parts.append(f"An attack that saved time may have missed up to {100 * hidden:.0f} points.")
    if warnings:
        parts.append(f"{len(warnings)} warning{'s' * (len(warnings) > 1)}: {warnings[0]}")
    anchor = "checks" if badge.state != "open" else ""
    return Answer(
        "Can I believe it?", verdict.get(badge.state, "With care: nothing was checked"), " ".join(parts), anchor
    )


def which_fail_first(
    groups: Sequence[tuple[str, str, Sequence[GroupAccuracy]]], shown: Sequence[Failure]
) -> Answer | None:
    """The class that suffers most, and an image.

    Args:
        groups: for each network its name (empty: there is one), the attack, and the accuracies by class, worst first.
        shown: the images of the page, of each network those that fail first at the beginning.
    """
    question, anchor = "Which images fail first?", "failures" if shown else "classes"
    verdicts, texts = [], []
    for network, condition, classes in groups:
        if len(classes) > 1 and classes[0].accuracy < classes[-1].accuracy:
            low, high = classes[0], classes[-1]
            verdicts.append(f"“{low.name}” most often" + (f" for {network}" if network else ""))
            texts.append(
                f"Under {condition} {network or 'the network'} keeps {percent(low.accuracy)} % of class “{low.name}” "
                f"({low.correct} of {low.n} images) and {percent(high.accuracy)} % of “{high.name}”."
            )
    first = min(shown, key=lambda each: each.eps, default=None)
    if first:
        how = f"at eps {first.eps:.3g} under {first.attack}" if first.eps else "without any attack"
        taken = f"the first is a “{first.label}”, taken for “{first.prediction}” {how}"
        texts.append(f"The images shown fail at the smallest eps; {taken}.")
    if not texts:
        return None
    alone = (f"Some at eps {first.eps:.3g} already" if first.eps else "Some without an attack") if first else ""
    return Answer(question, f"Class {', '.join(verdicts)}" if verdicts else alone, " ".join(texts), anchor)


def _clean(ladder: Ladder) -> Bar | None:
    return next((rung.bars[0] for rung in ladder.rungs if rung.eps == 0), None)


def _accuracy(bar: Bar | None) -> float:
    return bar.accuracy if bar else 1.0
