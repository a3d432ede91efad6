"""The head of a page in words: questions that a reader brings, each answered from the rows in a sentence or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inoculate.core.groups import GroupAccuracy
from inoculate.core.row import CERTIFIED
from inoculate.report.failures import Failure
from inoculate.report.formatting import attack_name, norm_name, percent, span
from inoculate.report.ladder import Bar, Ladder
from inoculate.report.results import Results, protocol_of

WEAK = {"fgsm", "bim", "mifgsm", "deepfool"}  # attacks that a model may withstand without being robust
HOLDS, BROKEN = 0.5, 0.1  # of the clean accuracy
ENOUGH = "Robust here: at least half of the clean accuracy is left."
FAIL_FIRST = "Which images fail first?"
NOT_CHECKED = "There was no check for masked gradients, which make a weak network look robust."


@dataclass(frozen=True)
class Answer:
    """A question with its answer: a short verdict, the sentence with its numbers, and where to read on (an id).

    favourable: whether the verdict calls something robust, which checks can still take back.
    """

    question: str
    verdict: str
    text: str
    anchor: str = ""
    favourable: bool = False


@dataclass(frozen=True)
class Doubt:
    """The most accuracy, in [0, 1], that an attack can have left by ending runs early, and in which number."""

    attack: str
    hidden: float
    number: str


@dataclass(frozen=True)
class Badge:
    """The checks and warnings in one line; `state` is `good`, `warned`, `bad` or `open`.

    `not_made`: the names of checks that could not be made.
    """

    state: str
    text: str
    not_made: tuple[str, ...] = ()


def badge_of(checks: Sequence[Mapping[str, Any]], warnings: int = 0) -> Badge:
    """Whether the checks of all runs of a page passed, and how many warnings there are."""
    passed, failed = ([check for check in checks if check["passed"] is verdict] for verdict in (True, False))
    if failed:
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        return Badge("bad", f"Check failed: {failed[0]['name']}{more}")
    if not passed:
        return Badge("open", "Not checked for masked gradients")
    rest = tuple(str(check["name"]) for check in checks if check["passed"] is None)
    missing = f"{len(rest)} not made" if rest else ""
    parts = [f"{len(passed)} check{'s' * (len(passed) > 1)} passed", missing, _in_words(warnings)]
    return Badge("warned" if warnings else "good", ", ".join(filter(None, parts)), rest)


def _in_words(warnings: int) -> str:
    return f"{warnings} warning{'s' * (warnings > 1)}" if warnings else ""


def is_it_robust(ladder: Ladder, who: str = "") -> Answer:
    """For one network: how much of its clean accuracy is left as eps grows."""
    question, attacked = "Is it robust?", [rung for rung in ladder.attacked if rung.bars[0]]
    clean = _clean(ladder)
    if not attacked or clean is None:
        return Answer(question, "Not measured", "No attack has been measured.")
    eps, bar = list(_lowest(ladder).items())[-1]
    low, high = bar.interval or (bar.accuracy, bar.accuracy)
    held = held_until(ladder)
    until = f", {percent(held[1].accuracy)} % under attack at eps {held[0]:.3g}" if held and held[0] < eps else ""
    text = (
        f"{who or 'It'} classifies {percent(clean.accuracy)} % of clean images correctly{until}, and "
        f"{percent(bar.accuracy)} % [{percent(low)}, {percent(high)}] under {attack_name(bar.attack)} at eps "
        f"{eps:.3g}. {ENOUGH}"
    )
    if set(ladder.attacks) <= WEAK:
        return Answer(question, "Not shown: only weak attacks were run", text)
    return Answer(question, _verdict(ladder, clean), text, favourable=held is not None)


def _lowest(ladder: Ladder) -> dict[float, Bar]:
    """For each eps, ascending, the bar of the first side that leaves least; of equal ones the last."""
    lowest: dict[float, Bar] = {}
    for rung in sorted(ladder.attacked, key=lambda rung: rung.eps):
        bar = rung.bars[0]
        if bar and (rung.eps not in lowest or bar.accuracy <= lowest[rung.eps].accuracy):
            lowest[rung.eps] = bar
    return lowest


def held_until(ladder: Ladder) -> tuple[float, Bar] | None:
    """The largest eps at which the first side keeps enough of its clean accuracy, and the bar there."""
    held = _held(ladder)
    return held[-1] if held else None


def _held(ladder: Ladder) -> list[tuple[float, Bar]]:
    """Every eps, ascending, at which the first side keeps enough of its clean accuracy, and the bar there."""
    clean = _clean(ladder)
    return [pair for pair in _lowest(ladder).items() if clean and pair[1].accuracy >= HOLDS * clean.accuracy]


def unchecked(answer: Answer) -> Answer:
    """The answer where no check was made: a verdict that calls something robust says so."""
    claim, *rest = answer.verdict.split(";", 1)
    return replace(answer, verdict=";".join([f"{claim} (not checked yet)", *rest])) if answer.favourable else answer


def _verdict(ladder: Ladder, clean: Bar) -> str:
    lowest, held = _lowest(ladder), [eps for eps, _ in _held(ladder)]
    if len(held) == len(lowest):
        return "Largely, at the sizes measured"
    if held:
        return f"Up to eps {held[-1]:.3g}; no longer at {min(eps for eps in lowest if eps > held[-1]):.3g}"
    return "No" if min(bar.accuracy for bar in lowest.values()) <= BROKEN * clean.accuracy else "Weakly"


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
    return Answer(question, verdict, text, favourable=after > before)


def against_what(found: Sequence[Results], images: str) -> Answer:
    """The threat model: attacks, norm, eps and images; an attack may have met the first of these only."""
    results, rows = found[0], [row for each in found for row in each.rows]
    attacks = list(dict.fromkeys(attack for each in found for attack in each.attacks))
    if not attacks:
        return Answer("Against what?", "Nothing yet", f"Clean accuracy only, on {images}.")
    sizes = sorted({row.eps for row in rows if row.attack in attacks})
    listed = ", ".join(f"{eps:.3g}" for eps in sizes[:6]) + (" …" if len(sizes) > 6 else "")
    unit = (
        "every pixel moves by at most eps (1 = full range)"
        if results.norm == "linf"
        else f"distance in {norm_name(results.norm)}"
    )
    white = any(row.protocol == "white-box" for row in rows if row.attack in attacks)
    knows = "The attacker knows the network" if white else "Examples of other networks"
    others = [row for row in rows if row.protocol != "white-box"]
    again = any(row.protocol == protocol_of("replayed", row.model, row.arm, None) for row in others)
    replayed = " Replayed images were crafted before the retraining." if again else ""
    proved = " A lower bound is proved as well." if CERTIFIED in results.conditions else ""
    names = ", ".join(map(attack_name, attacks))
    text = f"{knows}; {unit}, eps {listed}; {images}.{_coverage(found, attacks)}{replayed}{proved}"
    return Answer("Against what?", f"{names}, {norm_name(results.norm)}", text, "glossary")


def _coverage(found: Sequence[Results], attacks: Sequence[str]) -> str:
    """Of every attack that covers less than all: how many images, and which datasets (or norms) and networks."""
    parts = []
    most = max(row.n for results in found for row in results.rows)
    one_dataset = len({results.dataset for results in found}) == 1
    for attack in attacks:
        met = [results for results in found if attack in results.attacks]
        rows = [row for results in met for row in results.rows]
        own = [row for row in rows if row.attack == attack]
        n, networks = max(row.n for row in own), sorted({row.model for row in own})
        limits = [f"{n:,} images"] if n < most else []
        if len(met) < len(found):
            limits.append(" and ".join(norm_name(each.norm) if one_dataset else each.title for each in met))
        if len(networks) < len({row.model for row in rows}):
            limits.append(", ".join(networks))
        if limits:
            parts.append(f"{attack_name(attack)}: {', '.join(limits)} only.")
    return " ".join(["", *parts])


def can_i_believe_it(
    badge: Badge,
    ladder: Ladder,
    warnings: Sequence[str],
    counts: Sequence[int],
    seeds: Sequence[int] = (1,),
    doubt: Doubt | None = None,
) -> Answer:
    """The checks, the precision of the numbers, and the warnings of the run.

    `counts` are the numbers of images behind the rows, `seeds` those of training seeds of the networks. `doubt`
    is what attacks can have left by ending runs early, where they did most: said where it is larger than the precision.
    """
    bars = [bar for rung in ladder.rungs for bar in rung.bars if bar]
    widest = max((50 * (bar.interval[1] - bar.interval[0]) for bar in bars if bar.interval), default=0.0)
    images = f"{span(counts)} images" if counts else ""
    doubtful = doubt is not None and 100 * doubt.hidden > widest
    parts = [] if badge.state != "open" else [NOT_CHECKED]
    if doubt is not None and doubtful:
        below = "" if any(attack_name(bar.attack) == doubt.attack for bar in bars) else ", in the tables below"
        parts.append(
            f"{doubt.attack} saves time by giving up on images that look unbreakable: the true accuracy may be up to "
            f"{100 * doubt.hidden:.0f} points below the one shown (most: {doubt.number}{below})."
        )
    if warnings:
        parts.append(f"{_in_words(len(warnings))}: {warnings[0].rstrip('.')}.")
    not_made = f": {', '.join(badge.not_made)}" if badge.not_made and badge.text.endswith("not made") else ""
    parts += [f"{badge.text}{not_made}."] if badge.state != "open" else []
    if badge.not_made and not not_made:
        parts.append(f"Not made: {', '.join(badge.not_made)}.")
    if widest:
        also = "Apart from that, with" if doubtful else "With"
        parts.append(f"{also} {images}, the numbers are precise to about ±{widest:.0f} points (95 %).")
    elif images:
        parts.append(f"Behind a number are {images} and {span(seeds)} training seed{'s' * (max(seeds) > 1)}.")
    verdicts = {
        "good": "Only in part" if doubtful else "Yes, as far as was checked",
        "warned": "Only in part",
        "bad": "No, not before the failed check is resolved",
        "open": "Low accuracies yes, high ones not yet",
    }
    anchor = "checks" if badge.state != "open" else "glossary"
    return Answer("Can I believe it?", verdicts[badge.state], " ".join(parts), anchor)


def which_fail_first(
    groups: Sequence[tuple[str, str, Sequence[GroupAccuracy]]],
    shown: Sequence[tuple[str, Sequence[Failure]]],
) -> Answer | None:
    """An image of each network, or dataset, that fails first, and the class that suffers most.

    Args:
        groups: for each network its name (empty: there is one), the attack, and the accuracies by class, worst first.
        shown: the images of the page by what they belong to (empty: there is one), those that fail first at the
            beginning.
    """
    found = [f"{owner}: {_first(images)}" if owner else _first(images) for owner, images in shown]
    texts = [f"Taken for {_taken(images)}." for owner, images in shown if not owner]
    apart = [each for each in groups if len(each[2]) > 1 and each[2][0].accuracy < each[2][-1].accuracy]
    if len(groups) == 1 and apart:
        _, condition, classes = apart[0]
        low, high = classes[0], classes[-1]
        texts.append(
            f"Under {condition} the weakest class is “{low.name}”, {percent(low.accuracy)} % ({low.correct} of {low.n} "
            f"images), the strongest “{high.name}”, {percent(high.accuracy)} %."
        )
    elif apart:
        weakest = (f"{network} “{each[0].name}” {percent(each[0].accuracy)} %" for network, _, each in apart)
        conditions = " or ".join(dict.fromkeys(condition for _, condition, _ in apart))
        texts.append(f"Weakest classes under {conditions}: {', '.join(weakest)}.")
    if not found and not apart:
        return None
    verdict = "; ".join(found) or "See the classes"
    if not any(owner for owner, _ in shown):
        verdict = verdict[:1].upper() + verdict[1:]
    return Answer(FAIL_FIRST, verdict, " ".join(texts), "failures" if shown else "classes")


def _told(images: Sequence[Failure]) -> list[Failure]:
    """The first image that fails and, where no attack was needed for it, the first that an attack breaks."""
    attacked = next((each for each in images if each.eps), None)
    return [each for each in (images[0], attacked if images[0].eps == 0 else None) if each]


def _first(images: Sequence[Failure]) -> str:
    how = (f"at eps {each.eps:.3g}" if each.eps else "without any attack" for each in _told(images))
    return ", then ".join(f"a “{each.label}” {when}" for each, when in zip(_told(images), how, strict=True))


def _taken(images: Sequence[Failure]) -> str:
    return ", then ".join(
        f"“{each.prediction}”" + (f" under {each.attack}" if each.attack else "") for each in _told(images)
    )


def _clean(ladder: Ladder) -> Bar | None:
    return next((rung.bars[0] for rung in ladder.rungs if rung.eps == 0), None)


def _accuracy(bar: Bar | None) -> float:
    return bar.accuracy if bar else 1.0
