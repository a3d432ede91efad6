"""The paper's claims tested on the rows of a study, one sentence each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from inoculate.artifacts.rows import Records
from inoculate.core.row import Row
from inoculate.report import published
from inoculate.report.formatting import attack_name, percent, points
from inoculate.report.gains import CONTROLS, Gain, Verdict, arm_gain, compare
from inoculate.report.results import CLEAN, READINGS, Results, View, collect, natural_order


@dataclass(frozen=True)
class Claim:
    """One claim under one reading.

    Fields:
        letter: a to d as in the paper's argument, or `controls`.
        sentence: the claim in words, with its numbers.
        gain: the difference that the verdict rests on; of `controls` the one over the first control.
    """

    dataset: str
    letter: str
    reading: str
    verdict: Verdict
    sentence: str
    gain: Gain


def claims(
    rows: Iterable[Row],
    records: Records | None = None,
    surrogate: Mapping[str, str] | None = None,
    parameters: Mapping[str, int] | None = None,
) -> list[Claim]:
    """Return a verdict and a sentence for every claim that `rows` can test; what is not measured is left out.

    A claim is supported or contradicted when the 95 % interval of the paired difference excludes 0. The interval
    covers the choice of images and, with several seeds, the variation between trainings. Without `records` it is the
    wider two-proportion interval. `parameters` orders networks by size; else the number in their names does.
    """
    found: list[Claim] = []
    for results in collect(rows, surrogate):
        if not results.attacks:
            continue
        main, views = results.attacks[0], [View(results.attacks[0], reading) for reading in READINGS]
        views += [View("pgd", "white-box")] if "pgd" in results.attacks and main != "pgd" else []
        kept = records or {}
        found += [claim for view in views for claim in _helps_others(results, kept, view)]
        found += [claim for view in views for claim in _beats_augmentation(results, kept, view)]
        found += _bigger_is_more_robust(results, kept, View(main, "white-box"), parameters or {})
        found += _clean_rises(results, kept)
        found += [claim for view in views for claim in _beats_controls(results, kept, view)]
    return found


def _helps_others(results: Results, records: Records, view: View) -> list[Claim]:
    """Claim (a): transfer training helps the other architectures."""
    others = [model for model in results.models if model != results.surrogate]
    if results.surrogate is None:
        return []
    gain = arm_gain(results, records, others, "standard", "transferred", view)
    if gain is None:
        return []
    text = (
        f"Training on {results.surrogate}'s examples {_verb(gain)} the accuracy of the other networks "
        f"({', '.join(gain.models)}) on {_images(results, view)}: {gain.text} {gain.basis}."
    )
    return [_claim(results, "a", view, gain, text)]


def _beats_augmentation(results: Results, records: Records, view: View) -> list[Claim]:
    """Claim (b): transfer training beats augmentation alone."""
    gain = arm_gain(results, records, results.models, "augmented", "transferred", view)
    if gain is None:
        return []
    text = (
        f"Compared with augmentation alone, adding {_source(results)} examples {_verb(gain)} the accuracy of "
        f"{_all(gain)} on {_images(results, view)}: {gain.text} {gain.basis}."
    )
    return [_claim(results, "b", view, gain, text)]


def _bigger_is_more_robust(
    results: Results, records: Records, view: View, parameters: Mapping[str, int]
) -> list[Claim]:
    """Claim (c): larger networks are more robust before any hardening."""
    order = sorted(results.models, key=lambda model: (_size(model, parameters), natural_order(model)))
    epsilons = results.epsilons(view.attack)
    means = []
    for model in order:
        numbers = [results.find(model, "standard", view.attack, eps, view.reading) for eps in epsilons]
        if not all(numbers):
            return []
        means.append(sum(number.accuracy for number in numbers if number) / len(numbers))
    if len(order) < 2:
        return []
    gain = compare(results, records, [((order[0], "standard"), (order[-1], "standard"))], view)
    if gain is None:
        return []
    rises = all(small < large for small, large in pairwise(means))
    verdict: Verdict = "not decided" if gain.verdict == "supported" and not rises else gain.verdict
    listed = ", ".join(f"{model} {percent(mean)} %" for model, mean in zip(order, means, strict=True))
    text = (
        f"Before any hardening the largest network, {order[-1]}, differs from the smallest, {order[0]}, in accuracy on "
        f"{_images(results, view)} by {gain.text}; accuracy "
        f"{'rises' if rises else 'does not rise'} with every step in size ({listed}) {gain.basis}."
    )
    return [_claim(results, "c", view, gain, text, verdict)]


def _clean_rises(results: Results, records: Records) -> list[Claim]:
    """Claim (d): clean accuracy rises."""
    gain = arm_gain(results, records, results.models, "standard", "transferred", CLEAN)
    if gain is None:
        return []
    text = (
        f"Training on {_source(results)} examples {_verb(gain)} the accuracy of {_all(gain)} on clean images: "
        f"{gain.text} {gain.basis}."
    )
    return [_claim(results, "d", View("none", "clean"), gain, text)]


def _beats_controls(results: Results, records: Records, view: View) -> list[Claim]:
    """The part of the gain that remains over each control, on the networks of claim (a)."""
    models = [model for model in results.models if model != results.surrogate] or results.models
    whole = arm_gain(results, records, models, "standard", "transferred", view)
    parts = {name: arm_gain(results, records, models, arm, "transferred", view) for arm, name in CONTROLS.items()}
    measured = {name: gain for name, gain in parts.items() if gain}
    if whole is None or not measured:
        return []
    verdicts = [gain.verdict for gain in measured.values()]
    verdict: Verdict = "supported" if set(verdicts) == {"supported"} else "not decided"
    verdict = "contradicted" if "contradicted" in verdicts else verdict
    rest = " and ".join(f"{points(gain.value)} {gain.interval} over {name}" for name, gain in measured.items())
    last = list(measured.values())[-1]
    text = (
        f"Of the {points(whole.value)} points that training on {_source(results)} examples brings "
        f"{', '.join(whole.models)} on {_images(results, view)}, the method's own share is {rest} "
        f"{last.basis}."
    )
    return [_claim(results, "controls", view, next(iter(measured.values())), text, verdict)]


def _claim(results: Results, letter: str, view: View, gain: Gain, text: str, verdict: Verdict | None = None) -> Claim:
    """A claim whose verdict is that of its gain, unless another is given."""
    main, said = view.attack in ("none", results.attacks[0]), verdict or gain.verdict
    shown = view.reading if main else f"{view.reading}, {attack_name(view.attack)}"
    name = published.title(results.dataset) + ("" if results.norm == "linf" else f" ({results.norm})")
    return Claim(results.dataset, letter, shown, said, f"{name} ({letter}) {shown}: {said}. {text}", gain)


def _images(results: Results, view: View) -> str:
    name = attack_name(view.attack)
    if view.reading == "white-box":
        return f"{name} images crafted anew against each network"
    if view.reading == "replayed":
        return f"{name} images crafted on each network before its retraining"
    return f"{name} images crafted on {results.surrogate}"


def _verb(gain: Gain) -> str:
    return {"supported": "raised", "contradicted": "lowered", "not decided": "did not clearly change"}[gain.verdict]


def _all(gain: Gain) -> str:
    return gain.models[0] if len(gain.models) == 1 else f"the {len(gain.models)} networks"


def _source(results: Results) -> str:
    return f"{results.surrogate}'s" if results.surrogate else "the surrogate's"


def _size(model: str, parameters: Mapping[str, int]) -> int:
    if model in parameters:
        return parameters[model]
    number = re.search(r"\d+", model)
    return int(number[0]) if number else 0
