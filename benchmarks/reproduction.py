"""The tables of the page on the paper's reproduction, as Markdown: `python -m benchmarks.reproduction results/paper`.

Accuracies in percent are means over the networks, of each over its seeds, and over eps. Behind ± is half the distance
between the lowest and the highest seed of the network with the most seeds. A mean over some of the networks says so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from statistics import fmean

from inoculate.artifacts.rows import Records
from inoculate.report import published
from inoculate.report.claims import claims
from inoculate.report.formatting import attack_name, points
from inoculate.report.gains import CONTROLS, Gain, arm_gain
from inoculate.report.results import CLEAN, READINGS, Measurement, Results, View, collect
from inoculate.study.result import StudyRun

ARMS = {
    "standard": "standard",
    "transferred": "**transferred** (the paper's method)",
    "augmented": "augmented",
    "duplicates": "control: clean duplicates",
    "noise": "control: random noise",
}
ATTACKS = {"pgd": "PGD-20"}  # the steps that the study gives it
CLAIMS = {
    "a": "(a) helps other networks",
    "b": "(b) beats augmentation alone",
    "c": "(c) bigger networks are more robust before",
    "d": "(d) clean accuracy rises",
    "controls": "the method's own share of (a) over both controls",
}


def main(folder: str) -> None:
    """Print every table."""
    run = StudyRun.load(folder)
    found = collect(run.rows, run.surrogates)
    print("\n".join(_gains(found, run.records)), end="\n\n")
    for results in found:
        print("\n".join(_causes(results)), end="\n\n")
    print("\n".join(_own_share(found, run.records)), end="\n\n")
    print("\n".join(_claims(run)), end="\n\n")
    print("\n".join(_clean(found)))


def _gains(found: Sequence[Results], records: Records) -> Iterator[str]:
    """The published averages beside ours."""
    yield "| | clean, before | paper | FGSM, before | paper | replayed, after | gain | paper | errors removed | paper |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    replayed = View("fgsm", "replayed")
    for results in found:
        printed = [published.clean(results.dataset, model) for model in results.models]
        clean = fmean(pair[0] for pair in printed if pair)
        before, gain = published.adversarial_before(results.dataset), published.gain(results.dataset)
        own = arm_gain(results, records, results.models, "standard", "transferred", replayed)
        one, after = (_mean(results, arm, replayed) for arm in ("standard", "transferred"))
        if own is None or one is None or after is None or gain is None:
            continue
        theirs = f"{before:.1f} | " if before else "not given | "
        removed = _percent(gain / (100 - before)) if before else "not given"
        yield (
            f"| {published.title(results.dataset)} | {_text(results, 'standard', CLEAN)} | {clean:.1f} "
            f"| {_text(results, 'standard', replayed)} | {theirs}{_text(results, 'transferred', replayed)} "
            f"| {_points(own)} | {points(gain / 100)} | {_percent((after - one) / (1 - one))} | {removed} |"
        )


def _causes(results: Results) -> Iterator[str]:
    """Every arm under every reading."""
    views = [View("fgsm", reading) for reading in READINGS]
    views += [View(attack, "white-box") for attack in results.attacks if attack != "fgsm"]
    names = [ATTACKS.get(view.attack) or attack_name(view.attack) for view in views]
    names = [name + f" {view.reading}" * (view.attack == "fgsm") for name, view in zip(names, views, strict=True)]
    notes = [results.restriction(view.attack) for view in views]
    heads = [name + (f", {note}" if note else "") for name, note in zip(names, notes, strict=True)]
    yield f"| {published.title(results.dataset)} | clean | {' | '.join(heads)} |"
    yield "|---" * (len(views) + 2) + "|"
    for arm in (arm for arm in ARMS if arm in results.arms):
        yield f"| {ARMS[arm]} | {' | '.join(_text(results, arm, view) for view in (CLEAN, *views))} |"


def _own_share(found: Sequence[Results], records: Records) -> Iterator[str]:
    """What the method adds over each control, on all networks."""
    yield "| over | reading | " + " | ".join(published.title(results.dataset) for results in found) + " |"
    yield "|---" * (len(found) + 2) + "|"
    for arm, name in CONTROLS.items():
        for view in (*(View("fgsm", reading) for reading in READINGS), View("pgd", "white-box")):
            gains = [arm_gain(each, records, each.models, arm, "transferred", view) for each in found]
            shown = f"{attack_name(view.attack)} {view.reading}"
            yield f"| {name} | {shown} | {' | '.join(_points(gain) if gain else '' for gain in gains)} |"


def _claims(run: StudyRun) -> Iterator[str]:
    """Verdicts with the numbers that they rest on: of the method's own share, over the first control."""
    found = claims(run.rows, run.records, run.surrogates, run.parameters)
    datasets = list(dict.fromkeys(claim.dataset for claim in found))
    yield "| claim | reading | " + " | ".join(map(published.title, datasets)) + " |"
    yield "|---" * (len(datasets) + 2) + "|"
    verdicts = {
        (claim.letter, claim.reading, claim.dataset): f"{claim.verdict}: {_points(claim.gain)}" for claim in found
    }
    for letter, reading in dict.fromkeys((claim.letter, claim.reading) for claim in found):
        cells = (verdicts.get((letter, reading, dataset), "") for dataset in datasets)
        yield f"| {CLAIMS[letter]} | {reading} | {' | '.join(cells)} |"


def _clean(found: Sequence[Results]) -> Iterator[str]:
    """Table 1."""
    yield "| | network | seeds | before | paper | after | paper |\n|---|---|---|---|---|---|---|"
    for results in found:
        for model in results.models:
            before, after = (results.clean(model, arm) for arm in ("standard", "transferred"))
            printed = published.clean(results.dataset, model)
            if before and after and printed:
                yield (
                    f"| {published.title(results.dataset)} | {model} | {len(before.seeds)} | {_accuracy(before)} "
                    f"| {printed[0]} | {_accuracy(after)} | {printed[1]} |"
                )


def _measured(results: Results, arm: str, view: View) -> dict[str, list[Measurement]]:
    """By network: the accuracy at each eps."""
    epsilons = [0.0] if view == CLEAN else results.epsilons(view.attack)
    found = {
        model: [each for eps in epsilons if (each := results.find(model, arm, view.attack, eps, view.reading))]
        for model in results.models
    }
    return {model: measured for model, measured in found.items() if measured}


def _mean(results: Results, arm: str, view: View) -> float | None:
    found = _measured(results, arm, view)
    return fmean(fmean(each.accuracy for each in measured) for measured in found.values()) if found else None


def _text(results: Results, arm: str, view: View) -> str:
    """The mean, and the spread over the seeds of the network that has most."""
    found, mean = _measured(results, arm, view), _mean(results, arm, view)
    if mean is None:
        return ""
    most = max(found.values(), key=lambda measured: len(measured[0].seeds))
    by_seed = [fmean(each.rows[n].accuracy for each in most) for n in range(len(most[0].seeds))]
    spread = f" ± {50 * (max(by_seed) - min(by_seed)):.1f}" if len(by_seed) > 1 else ""
    part = f" ({len(found)} of {len(results.models)} networks)" if len(found) < _networks(results, view) else ""
    return f"{100 * mean:.1f}{spread}{part}"


def _networks(results: Results, view: View) -> int:
    """On how many networks this was measured for any arm."""
    return max(len(_measured(results, arm, view)) for arm in results.arms)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def _points(gain: Gain) -> str:
    return f"{points(gain.value)} {gain.interval}"


def _accuracy(measured: Measurement) -> str:
    low, high = measured.interval
    return f"{100 * measured.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    main(sys.argv[1])
