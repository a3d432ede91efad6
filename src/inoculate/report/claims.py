"""What the numbers say about the paper's claims, one plain sentence each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from inoculate.artifacts.rows import Records
from inoculate.core.row import Row
from inoculate.core.stats import paired_gain, unpaired_gain
from inoculate.report import published
from inoculate.report.layout import attack_name, percent, points
from inoculate.report.select import READINGS, Results, collect, natural

Verdict = Literal["supported", "contradicted", "not decided"]
CONTROL_WORDS = {"duplicates": "training on clean copies", "noise": "training on random noise of the same size"}
_Side = tuple[str, str]  # model, arm


@dataclass(frozen=True)
class Claim:
    """One claim under one reading: `letter` is a–d as in the paper's argument, or `controls` for the attribution."""

    dataset: str
    letter: str
    reading: str
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class Gain:
    """A mean difference of accuracy in [-1, 1] with its 95 % interval, and what it was measured on."""

    value: float
    low: float
    high: float
    images: int
    seeds: int
    models: tuple[str, ...]
    paired: bool

    @property
    def verdict(self) -> Verdict:
        if self.low > 0:
            return "supported"
        return "contradicted" if self.high < 0 else "not decided"

    @property
    def text(self) -> str:
        return f"{points(self.value)} points [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    @property
    def basis(self) -> str:
        seeds = "1 seed" if self.seeds == 1 else f"{self.seeds} seeds"
        how = "" if self.paired else ", unpaired interval from the counts"
        return f"({self.images:,} images, {seeds}{how})"


def claims(
    rows: Iterable[Row],
    records: Records | None = None,
    surrogate: Mapping[str, str] | None = None,
    parameters: Mapping[str, int] | None = None,
) -> list[Claim]:
    """Return a verdict and a sentence for every claim that `rows` can speak to; what is not measured is left out.

    A claim is supported or contradicted when the 95 % interval of the paired difference excludes 0. The interval
    covers the choice of images; the luck of training shows only across seeds. Without `records` it is the wider
    two-proportion interval. `parameters` orders networks by size; else the number in their names does.
    """
    found: list[Claim] = []
    for results in collect(rows, surrogate):
        if not results.attacks:
            continue
        main, views = results.attacks[0], [(results.attacks[0], reading) for reading in READINGS]
        views += [("pgd", "white-box")] if "pgd" in results.attacks and main != "pgd" else []
        kept = records or {}
        found += [claim for view in views for claim in _helps_others(results, kept, *view)]
        found += [claim for view in views for claim in _beats_augmentation(results, kept, *view)]
        found += _bigger_is_more_robust(results, kept, main, parameters or {})
        found += _clean_rises(results, kept)
        found += [claim for view in views for claim in _attribution(results, kept, *view)]
    return found


def _helps_others(results: Results, records: Records, attack: str, reading: str) -> list[Claim]:
    others = [model for model in results.models if model != results.surrogate]
    if results.surrogate is None:
        return []
    gain = arm_gain(results, records, others, "standard", "transferred", attack, reading)
    if gain is None:
        return []
    text = (
        f"Training on {results.surrogate}'s examples {_verb(gain)} the accuracy of the other networks "
        f"({', '.join(gain.models)}) on {_images(results, attack, reading)}: {gain.text} {gain.basis}."
    )
    return [_claim(results, "a", attack, reading, gain.verdict, text)]


def _beats_augmentation(results: Results, records: Records, attack: str, reading: str) -> list[Claim]:
    gain = arm_gain(results, records, results.models, "augmented", "transferred", attack, reading)
    if gain is None:
        return []
    text = (
        f"Compared with augmentation alone, adding {_source(results)} examples {_verb(gain)} the accuracy of "
        f"{_all(gain)} on {_images(results, attack, reading)}: {gain.text} {gain.basis}."
    )
    return [_claim(results, "b", attack, reading, gain.verdict, text)]


def _clean_rises(results: Results, records: Records) -> list[Claim]:
    gain = arm_gain(results, records, results.models, "standard", "transferred", "none", "white-box")
    if gain is None:
        return []
    text = (
        f"Training on {_source(results)} examples {_verb(gain)} the accuracy of {_all(gain)} on clean images: "
        f"{gain.text} {gain.basis}."
    )
    return [_claim(results, "d", "none", "clean", gain.verdict, text)]


def _bigger_is_more_robust(
    results: Results, records: Records, attack: str, parameters: Mapping[str, int]
) -> list[Claim]:
    order = sorted(results.models, key=lambda model: (_size(model, parameters), natural(model)))
    epsilons = results.epsilons(attack)
    means = []
    for model in order:
        numbers = [results.find(model, "standard", attack, eps, "white-box") for eps in epsilons]
        if not all(numbers):
            return []
        means.append(sum(number.accuracy for number in numbers if number) / len(numbers))
    if len(order) < 2:
        return []
    gain = _compare(results, records, [((order[0], "standard"), (order[-1], "standard"))], attack, "white-box")
    if gain is None:
        return []
    rises = all(small < large for small, large in pairwise(means))
    verdict: Verdict = "not decided" if gain.verdict == "supported" and not rises else gain.verdict
    listed = ", ".join(f"{model} {percent(mean)} %" for model, mean in zip(order, means, strict=True))
    text = (
        f"Before any hardening the largest network, {order[-1]}, differs from the smallest, {order[0]}, in accuracy on "
        f"{_images(results, attack, 'white-box')} by {gain.text}; accuracy "
        f"{'rises' if rises else 'does not rise'} with every step in size ({listed}) {gain.basis}."
    )
    return [_claim(results, "c", attack, "white-box", verdict, text)]


def _attribution(results: Results, records: Records, attack: str, reading: str) -> list[Claim]:
    """How much of the gain is the method: transferred against each control, on the networks of claim (a)."""
    models = [model for model in results.models if model != results.surrogate] or results.models
    whole = arm_gain(results, records, models, "standard", "transferred", attack, reading)
    parts = {
        name: arm_gain(results, records, models, arm, "transferred", attack, reading)
        for arm, name in CONTROL_WORDS.items()
    }
    measured = {name: gain for name, gain in parts.items() if gain}
    if whole is None or not measured:
        return []
    verdicts = [gain.verdict for gain in measured.values()]
    verdict: Verdict = "supported" if set(verdicts) == {"supported"} else "not decided"
    verdict = "contradicted" if "contradicted" in verdicts else verdict
    rest = " and ".join(f"{_interval(gain)} over {name}" for name, gain in measured.items())
    last = list(measured.values())[-1]
    text = (
        f"Of the {points(whole.value)} points that training on {_source(results)} examples brings "
        f"{', '.join(whole.models)} on {_images(results, attack, reading)}, the method's own share is {rest} "
        f"{last.basis}."
    )
    return [_claim(results, "controls", attack, reading, verdict, text)]


def arm_gain(
    results: Results, records: Records, models: Sequence[str], before: str, after: str, attack: str, reading: str
) -> Gain | None:
    """Return the mean gain of arm `after` over arm `before`, over networks × eps, or None where nothing is paired."""
    return _compare(results, records, [((model, before), (model, after)) for model in models], attack, reading)


def _compare(
    results: Results, records: Records, sides: Iterable[tuple[_Side, _Side]], attack: str, reading: str
) -> Gain | None:
    """Compare two sides, each (model, arm), over every eps and seed that both have."""
    pairs: list[tuple[Row, Row]] = []
    models: list[str] = []
    for left, right in sides:
        for eps in [0.0] if attack == "none" else results.epsilons(attack):
            kept = "white-box" if attack == "none" else reading
            one, other = results.find(*left, attack, eps, kept), results.find(*right, attack, eps, kept)
            after = {row.seed: row for row in other.rows} if other else {}
            both = [(row, after[row.seed]) for row in one.rows if row.seed in after] if one else []
            pairs += both
            models += [right[0]] if both else []
    if not pairs:
        return None
    images = min(row.n for pair in pairs for row in pair)
    seeds = len({row.seed for row, _ in pairs})
    paired = all(row.key in records for pair in pairs for row in pair)
    if paired:
        # A seed is one more column: averaging seeds image by image holds whether or not they share their images.
        numbers = paired_gain([records[row.key] for row, _ in pairs], [records[row.key] for _, row in pairs])
    else:
        means = [sum(pair[side].accuracy for pair in pairs) / len(pairs) for side in (0, 1)]
        numbers = unpaired_gain(means[0], means[1], images)
    return Gain(*numbers, images, seeds, tuple(dict.fromkeys(models)), paired)


def _claim(results: Results, letter: str, attack: str, reading: str, verdict: Verdict, text: str) -> Claim:
    shown = reading if attack in ("none", results.attacks[0]) else f"{reading}, {attack_name(attack)}"
    name = published.title(results.dataset) + ("" if results.norm == "linf" else f" ({results.norm})")
    return Claim(results.dataset, letter, shown, verdict, f"{name} ({letter}) {shown}: {verdict}. {text}")


def _images(results: Results, attack: str, reading: str) -> str:
    name = attack_name(attack)
    if reading == "white-box":
        return f"{name} images crafted anew against each network"
    if reading == "replayed":
        return f"{name} images crafted on each network before its retraining"
    return f"{name} images crafted on {results.surrogate}"


def _verb(gain: Gain) -> str:
    return {"supported": "raised", "contradicted": "lowered", "not decided": "did not clearly change"}[gain.verdict]


def _all(gain: Gain) -> str:
    return gain.models[0] if len(gain.models) == 1 else f"the {len(gain.models)} networks"


def _source(results: Results) -> str:
    return f"{results.surrogate}'s" if results.surrogate else "the surrogate's"


def _interval(gain: Gain) -> str:
    return f"{points(gain.value)} [{100 * gain.low:.1f}, {100 * gain.high:.1f}]"


def _size(model: str, parameters: Mapping[str, int]) -> int:
    if model in parameters:
        return parameters[model]
    number = re.search(r"\d+", model)
    return int(number[0]) if number else 0
