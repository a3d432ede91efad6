"""What a dataset's numbers say, in plain words: one line first, then what it rests on."""

from __future__ import annotations

from dataclasses import dataclass

from inoculate.artifacts.rows import Records
from inoculate.report import published
from inoculate.report.claims import CONTROL_WORDS, Gain, arm_gain
from inoculate.report.layout import attack_name, percent, points
from inoculate.report.select import Number, Results

_OTHERWISE = {"augmented": "augmentation alone", **CONTROL_WORDS}


@dataclass(frozen=True)
class Headline:
    """`lead` is the finding, `rest` the sentences with its numbers."""

    lead: str
    rest: list[str]


def headline(results: Results, records: Records | None = None) -> Headline:
    """The finding on one dataset; where the method protects only against replayed examples, that is said first."""
    kept = records or {}
    main = results.attacks[0] if results.attacks else None

    def gain(attack: str, reading: str, before: str = "standard") -> Gain | None:
        return arm_gain(results, kept, results.models, before, "transferred", attack, reading)

    before = _state(results)
    replayed, white = (gain(main, reading) if main else None for reading in ("replayed", "white-box"))
    if main is None or (replayed is None and white is None):
        return Headline(*_without_transfer(results))
    others = [attack for attack in results.attacks[1:] if gain(attack, "white-box")]
    strong = {attack: gain(attack, "white-box") for attack in others}
    gained = "white-box" if _up(white) else "replayed" if _up(replayed) else None
    own = {name: gain(main, gained, arm) for arm, name in _OTHERWISE.items()} if gained else {}
    rest = [before] if before else []
    name = attack_name(main)
    rest += _said(replayed, f"On {name} images crafted on each network before its retraining (replayed)")
    rest += _said(white, f"On {name} images crafted anew on the retrained network (white-box)")
    where = {attack: results.narrower(attack) for attack in strong}
    for attack, found in strong.items():
        rest += _said(found, f"Under {attack_name(attack)}, crafted anew{where[attack] and f' ({where[attack]})'},")
    rest += _said(gain("none", "white-box"), "On clean images")
    for arm, other in _OTHERWISE.items():
        shares = [(read, gain(main, read, arm)) for read in ("replayed", "white-box")]
        parts = [f"{share.text} {read}" for read, share in shares if share]
        if parts:
            rest.append(f"Against {other}, all else equal, the method's own share is {', '.join(parts)}.")
    printed = published.gain(results.dataset)
    if printed is not None:
        start = published.adversarial_before(results.dataset)
        rest.append(
            f"The paper reports {f'{start:.1f} % before and ' if start else ''}a gain of {printed:+.1f} points."
        )
    as_wide = {attack: found for attack, found in strong.items() if not where[attack]}
    return Headline(_lead(replayed, white, as_wide, _matched(own), main), rest)


def _lead(replayed: Gain | None, white: Gain | None, strong: dict[str, Gain | None], controls: str, main: str) -> str:
    worse = " It leaves the networks more fragile to an attacker who sees them." if white and white.high < 0 else ""
    if white is None:
        return f"Measured on replayed examples only: {'they fool less often' if _up(replayed) else 'no clear gain'}."
    if not _up(white):
        if _up(replayed):
            return "Transfer training protects against replayed examples only." + worse + controls
        return "Transfer training does not measurably protect." + worse
    if replayed and white.value < replayed.value / 2:
        return (
            "Most of what transfer training gains holds against replayed examples only: "
            f"{points(replayed.value)} points there, {points(white.value)} on images crafted anew." + controls
        )
    weak = [attack_name(attack) for attack, found in strong.items() if not _up(found)]
    if weak:
        return f"Transfer training helps against {attack_name(main)}, but not measurably against {', '.join(weak)}." + (
            controls
        )
    if controls:
        return "Networks become harder to fool by the retraining, not by its adversarial examples." + controls
    return "Transfer training makes the networks harder to fool, also for an attacker who sees them."


def _matched(own: dict[str, Gain | None]) -> str:
    """Which ways of training without adversarial examples gain as much, given the method's own share over each."""
    says = ""
    more = [name for name, share in own.items() if share and share.high < 0]
    alike = [name for name, share in own.items() if share and share.low <= 0 <= share.high]
    for names, verb in ((more, "gains clearly more"), (alike, "gains not clearly less")):
        listed = " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
        says += f" {listed[0].upper()}{listed[1:]}, with no adversarial example, {verb}." if listed else ""
    return says


def _without_transfer(results: Results) -> tuple[str, list[str]]:
    """For an evaluation of a model, or a study of other methods: where every arm stands under the hardest attack."""
    rest: list[str] = []
    worst: tuple[float, str] | None = None
    wide = {attack for attack in results.attacks if not results.narrower(attack)}
    for model in results.models:
        for arm in results.arms:
            clean = results.clean(model, arm)
            found = [
                (number, f"{attack_name(attack)} at eps {eps:.3g}", attack in wide)
                for attack in results.attacks
                for eps in results.epsilons(attack)[-1:]
                if (number := results.find(model, arm, attack, eps, "white-box"))
            ]
            parts = [f"{percent(clean.accuracy)} % of clean images"] if clean else []
            if found:
                number, against, _ = min(found, key=_accuracy)
                low, high = (100 * bound for bound in number.interval)
                parts.append(f"{percent(number.accuracy)} % [{low:.1f}, {high:.1f}] under {against}")
                number, against, _ = min([each for each in found if each[2]] or found, key=_accuracy)
                worst = min(filter(None, (worst, (number.accuracy, f"{percent(number.accuracy)} % under {against}"))))
            label = model if arm == "standard" else f"{model} ({arm})"
            rest += [f"{label} gets {' and '.join(parts)} right."] if parts else []
    if worst is None:
        return "No attack has been measured.", rest
    many = len(results.models) * len(results.arms) > 1
    return (f"The most fragile network keeps {worst[1]}." if many else f"The model keeps {worst[1]}."), rest


def _accuracy(found: tuple[Number, str, bool]) -> float:
    return found[0].accuracy


def _state(results: Results) -> str:
    """Where the standard networks stand."""
    clean = [number.accuracy for model in results.models if (number := results.clean(model, "standard"))]
    main = results.attacks[0] if results.attacks else ""
    attacked = [
        number.accuracy
        for model in results.models
        for eps in results.epsilons(main)
        if (number := results.find(model, "standard", main, eps, "white-box"))
    ]
    if not clean or not attacked:
        return ""
    sizes = ", ".join(f"{eps:.3g}" for eps in results.epsilons(main))
    get = "gets" if len(results.models) == 1 else "get"
    return (
        f"Before any hardening {', '.join(results.models)} {get} {percent(sum(clean) / len(clean))} % of clean images "
        f"right, and {percent(sum(attacked) / len(attacked))} % of {attack_name(main)} images (mean over eps {sizes})."
    )


def _said(gain: Gain | None, where: str) -> list[str]:
    if gain is None:
        return []
    verb = {"supported": "rises", "contradicted": "falls", "not decided": "does not clearly change"}[gain.verdict]
    return [f"{where} accuracy {verb}: {gain.text} {gain.basis}."]


def _up(gain: Gain | None) -> bool:
    return gain is not None and gain.low > 0
