"""Several models side by side: one run made of theirs, and which of them to ship."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from inoculate.artifacts.rows import Records
from inoculate.attribution.explanation import Explanation
from inoculate.core.errors import InputError
from inoculate.core.row import Row
from inoculate.core.stats import paired_gain, unpaired_gain
from inoculate.report.answers import ENOUGH, HOLDS, Answer, held_until, is_it_robust, unchecked
from inoculate.report.formatting import attack_name, percent, points
from inoculate.report.ladder import Bar, Ladder, Rung
from inoculate.report.results import BEFORE, Results
from inoculate.report.run import RunRecord

ARM = "standard"  # the one arm of a comparison: its networks differ by name


def joined(runs: Mapping[str, RunRecord]) -> RunRecord:
    """One run of several models by name, with the rows and the explanations of each under its name.

    Of a hardened model the network after hardening counts. Raises `InputError` for a study, for a run with several
    networks, and where no two runs measured the same data.
    """
    members = [_renamed(name, run) for name, run in runs.items()]
    datasets = [{row.dataset for row in member.rows} for member in members]
    if not any(one & other for one, other in combinations(datasets, 2)):
        raise InputError(f"{', '.join(runs)} measured different data: evaluate them on the same images")
    common = [row for row in members[0].rows if row.attack == "none"]
    return RunRecord(
        title=" and ".join([", ".join([*runs][:-1]), [*runs][-1]]) + f" on {common[0].dataset if common else 'data'}",
        rows=[row for member in members for row in member.rows],
        records={key: value for member in members for key, value in member.records.items()},
        explanations=[each for member in members for each in member.explanations],
        trainings=[replace(each, model=name) for (name, run) in runs.items() for each in run.trainings],
        members=members,
    )


def _renamed(name: str, run: RunRecord) -> RunRecord:
    kept = [row for row in run.rows if row.arm != BEFORE]
    networks = dict.fromkeys((row.model, row.arm) for row in kept)
    if run.is_study or len(networks) != 1:
        raise InputError(f"{name} holds {len(networks)} networks: compare evaluations or hardened models, one each")
    rows = {row: replace(row, model=name, arm=ARM) for row in kept}
    explanations = [Explanation({**each.facts, "model": name, "arm": ARM}, each.arrays) for each in run.explanations]
    return replace(
        run, title=name, rows=list(rows.values()), explanations=explanations,
        records={new.key: run.records[old.key] for old, new in rows.items() if old.key in run.records},
    )  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """How much one model keeps more than another under the strongest attack that both met (95 % interval)."""

    better: str
    worse: str
    rung: Rung
    value: float
    low: float
    high: float
    paired: bool


def which_to_ship(results: Results, ladder: Ladder, records: Records, same_images: bool) -> Answer:
    """The model that keeps more under the strongest attacks that all met, and by how much where it leads most."""
    question = "Which one to ship?"
    shared = [rung for rung in ladder.attacked if sum(bar is not None for bar in rung.bars) > 1]
    if not shared:
        return Answer(question, "Not decided", "No attack was measured on both: evaluate them with the same attacks.")
    found = [_difference(results, ladder, rung, records if same_images else {}) for rung in shared]
    decided = [each for each in found if each.low > 0]
    opposed = {each.better for each in decided}
    last = decided[-1] if decided else found[-1]
    shown = max(decided, key=lambda each: each.value) if len(opposed) == 1 else last
    rung, clean = shown.rung, {side.label: bar for side, bar in zip(ladder.sides, ladder.rungs[0].bars, strict=True)}
    names = [side.label for side in ladder.sides]
    best, other = (rung.bars[names.index(name)] for name in (shown.better, shown.worse))
    assert best is not None
    assert other is not None
    how = "paired over images" if shown.paired else "unpaired"
    text = (
        f"Under {_named(best, other)} at eps {rung.eps:.3g} {shown.better} keeps {percent(best.accuracy)} %, "
        f"{shown.worse} {percent(other.accuracy)} %: {points(shown.value)} points "
        f"[{100 * shown.low:.1f}, {100 * shown.high:.1f}], {how}.{_elsewhere(ladder, last, shown)} {_on_clean(clean)}"
    )
    if not decided:
        return Answer(question, "Not decided: the difference may be chance", text)
    if len(opposed) > 1:
        return Answer(question, f"It depends on eps: {shown.better} at {rung.eps:.3g}", text)
    return Answer(question, shown.better, text)


def are_they_robust(ladder: Ladder, checked: bool) -> Answer:
    """For each model alone: up to which eps it keeps enough of its clean accuracy."""
    alone = [is_it_robust(ladder.side(place)) for place in range(len(ladder.sides))]
    alone = alone if checked else list(map(unchecked, alone))
    found: dict[str, list[str]] = {}
    for side, each in zip(ladder.sides, alone, strict=True):
        verdict = each.verdict.replace(";", ",")
        found.setdefault(verdict[:1].lower() + verdict[1:], []).append(side.label)
    verdict = "; ".join(f"{' and '.join(names)}: {verdict}" for verdict, names in found.items())
    return Answer("Is it robust?", verdict, f"{_kept_until(ladder)}{ENOUGH}")


def _kept_until(ladder: Ladder) -> str:
    """What each model keeps at the largest eps at which it is robust, with the interval; a sentence, or nothing."""
    parts = []
    for place, side in enumerate(ladder.sides):
        alone = ladder.side(place)
        clean, held = alone.rungs[0].bars[0] if alone.rungs else None, held_until(alone)
        if clean and held:
            eps, bar = held
            low, high = bar.interval or (bar.accuracy, bar.accuracy)
            barely = ", barely robust" if low < HOLDS * clean.accuracy else ""
            parts.append(
                f"{side.label} {percent(bar.accuracy)} % [{percent(low)}, {percent(high)}] at {eps:.3g}{barely}"
            )
    return f"Left at the largest of these eps: {'; '.join(parts)}. " if parts else ""


def _elsewhere(ladder: Ladder, last: Difference, shown: Difference) -> str:
    """The numbers at the largest eps, if those shown are of another."""
    if last is shown:
        return ""
    bars = {side.label: bar for side, bar in zip(ladder.sides, last.rung.bars, strict=True) if bar}
    kept = ", ".join(f"{name} {percent(bars[name].accuracy)} %" for name in (last.better, last.worse))
    return f" At eps {last.rung.eps:.3g}: {kept}."


def _difference(results: Results, ladder: Ladder, rung: Rung, records: Records) -> Difference:
    """Between the best and the next best of one rung."""
    known = [(side, bar) for side, bar in zip(ladder.sides, rung.bars, strict=True) if bar]
    (first, best), (second, other) = sorted(known, key=lambda pair: -pair[1].accuracy)[:2]
    rows = [_row(results, side.networks[0], bar, rung.eps) for side, bar in ((second, other), (first, best))]
    keys = [row.key for row in rows if row and row.key in records]
    paired = len(keys) == 2 and len({len(records[key]) for key in keys}) == 1
    if paired:
        before, after = ([np.asarray(records[key])] for key in keys)
        value, low, high = paired_gain(before, after)
    else:
        value, low, high = unpaired_gain(other.accuracy, best.accuracy, min(best.n, other.n))
    return Difference(first.label, second.label, rung, value, low, high, paired)


def _row(results: Results, network: tuple[str, str], bar: Bar, eps: float) -> Row | None:
    number = results.find(*network, bar.attack, eps, "white-box")
    return number.rows[0] if number else None


def _named(best: Bar, other: Bar) -> str:
    return " and ".join(dict.fromkeys(attack_name(bar.attack) for bar in (best, other)))


def _on_clean(clean: Mapping[str, Bar | None]) -> str:
    known = [f"{name} {percent(bar.accuracy)} %" for name, bar in clean.items() if bar]
    return f"On clean images: {', '.join(known)}."


def same_images(members: Sequence[RunRecord]) -> bool:
    """Whether all runs recorded the same labels and files, in the same order."""
    records = [member.images for member in members]
    first = records[0]
    return first is not None and all(
        each is not None and np.array_equal(each.labels, first.labels) and list(each.sources) == list(first.sources)
        for each in records
    )
