"""The finding on one dataset in plain words: one sentence first, then the numbers it rests on."""

from __future__ import annotations

from dataclasses import dataclass

from inoculate.artifacts.rows import Records
from inoculate.report import published
from inoculate.report.between import between
from inoculate.report.formatting import attack_name, percent, points
from inoculate.report.gains import CONTROLS, Gain, arm_gain
from inoculate.report.results import BEFORE, CLEAN, Measurement, Results, View

_ALTERNATIVES = {"augmented": "augmentation alone", **CONTROLS}


@dataclass(frozen=True)
class Headline:
    """`lead` is the finding, `rest` the sentences with its numbers."""

    lead: str
    rest: list[str]


@dataclass(frozen=True)
class _Transfer:
    """The gains of transfer training, by what they were measured on.

    `others`: white-box, by further attack; `shares`: the part that remains over an alternative training, by its name.
    """

    main: str
    replayed: Gain | None
    white: Gain | None
    others: dict[str, Gain]
    shares: dict[str, Gain]


def headline(results: Results, records: Records | None = None) -> Headline:
    """The finding on one dataset; where transfer training protects against replayed examples only, that comes first."""
    if BEFORE in results.arms:
        return _hardened(results)
    transfer = _transfer(results, records or {})
    if transfer is None:
        return _by_arm(results)
    return Headline(_lead(results, transfer), _sentences(results, records or {}, transfer))


def _transfer(results: Results, records: Records) -> _Transfer | None:
    """The gains of transfer training; None where it was not measured."""
    if not results.attacks:
        return None

    def gain(view: View, before: str = "standard") -> Gain | None:
        return arm_gain(results, records, results.models, before, "transferred", view)

    main, *rest = results.attacks
    replayed, white = gain(View(main, "replayed")), gain(View(main, "white-box"))
    if replayed is None and white is None:
        return None
    gained = "white-box" if _rises(white) else "replayed" if _rises(replayed) else None
    shares = {name: gain(View(main, gained), arm) for arm, name in _ALTERNATIVES.items()} if gained else {}
    others = {attack: gain(View(attack, "white-box")) for attack in rest}
    return _Transfer(main, replayed, white, _known(others), _known(shares))


def _sentences(results: Results, records: Records, transfer: _Transfer) -> list[str]:
    name, before = attack_name(transfer.main), _before_hardening(results)
    rest = [before] if before else []
    rest += _change(transfer.replayed, f"On {name} images crafted on each network before its retraining (replayed)")
    rest += _change(transfer.white, f"On {name} images crafted anew on the retrained network (white-box)")
    for attack, found in transfer.others.items():
        where = results.restriction(attack)
        rest += _change(found, f"Under {attack_name(attack)}, crafted anew{where and f' ({where})'},")
    rest += _change(arm_gain(results, records, results.models, "standard", "transferred", CLEAN), "On clean images")
    for arm, other in _ALTERNATIVES.items():
        shares = [
            (reading, arm_gain(results, records, results.models, arm, "transferred", View(transfer.main, reading)))
            for reading in ("replayed", "white-box")
        ]
        parts = [f"{share.text} {reading}" for reading, share in shares if share]
        if parts:
            rest.append(f"Against {other}, all else equal, the method's own share is {', '.join(parts)}.")
    printed = published.gain(results.dataset)
    if printed is not None:
        start = published.adversarial_before(results.dataset)
        rest.append(
            f"The paper reports {f'{start:.1f} % before and ' if start else ''}a gain of {printed:+.1f} points."
        )
    return rest


def _lead(results: Results, transfer: _Transfer) -> str:
    replayed, white, controls = transfer.replayed, transfer.white, _matched(transfer.shares)
    sizes = [f"{eps:.3g}" for eps in results.epsilons(results.attacks[0])]
    over = f"{attack_name(results.attacks[0])}, {'mean over ' if len(sizes) > 1 else ''}eps {', '.join(sizes)}"
    worse = (
        f" On images crafted anew the networks lose {points(-white.value)[1:]} points ({over})."
        if white and white.high < 0
        else ""
    )
    if white is None:
        return f"Measured on replayed examples only: {'they fool less often' if _rises(replayed) else 'no clear gain'}."
    if not _rises(white):
        if _rises(replayed):
            return "Transfer training protects against replayed examples only." + worse + controls
        return "Transfer training does not measurably protect." + worse
    if replayed and white.value < replayed.value / 2:
        return (
            "Most of what transfer training gains holds against replayed examples only: "
            f"{points(replayed.value)} points there, {points(white.value)} on images crafted anew ({over})." + controls
        )
    weak = [
        attack_name(attack)
        for attack, found in transfer.others.items()
        if not _rises(found) and not results.restriction(attack)
    ]
    if weak:
        main = attack_name(transfer.main)
        return f"Transfer training helps against {main}, but not measurably against {', '.join(weak)}." + controls
    if controls:
        return "Networks become harder to fool by the retraining, not by its adversarial examples." + controls
    return "Transfer training makes the networks harder to fool, also for an attacker who sees them."


def _matched(shares: dict[str, Gain]) -> str:
    """The trainings without adversarial examples that gain as much, given the method's own share over each."""
    says = ""
    more = [name for name, share in shares.items() if share.high < 0]
    alike = [name for name, share in shares.items() if share.low <= 0 <= share.high]
    for names, verb in ((more, "gains clearly more"), (alike, "gains as much, as far as can be told")):
        listed = " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
        says += f" Without any adversarial example, {listed} {verb}." if listed else ""
    return says


def _by_arm(results: Results) -> Headline:
    """For an evaluation of a model or a study of other methods: the accuracy of every arm under its hardest attack."""
    rest: list[str] = []
    lowest: list[tuple[float, str]] = []
    for model in results.models:
        for arm in results.arms:
            clean, found = results.clean(model, arm), _attacked(results, model, arm)
            parts, proof = [f"{percent(clean.accuracy)} % of clean images"] if clean else [], ""
            if found:
                number, against, _ = min(found, key=_accuracy)
                low, high = (100 * bound for bound in number.interval)
                parts.append(f"{percent(number.accuracy)} % [{low:.1f}, {high:.1f}] under {against}")
                bounds = between(results, model, arm, number.rows[0].eps)
                proof = f" Whatever the attack, at least {percent(bounds.proved.accuracy)} % there." if bounds else ""
                number, against, _ = min([each for each in found if each[2]] or found, key=_accuracy)
                lowest.append((number.accuracy, f"{percent(number.accuracy)} % under {against}"))
            label = model if arm == "standard" else f"{model} ({arm})"
            rest += [f"{label} gets {' and '.join(parts)} right.{proof}"] if parts else []
    if not lowest:
        return Headline("No attack has been measured.", rest)
    many = len(results.models) * len(results.arms) > 1
    return Headline(f"{'The most fragile network' if many else 'The model'} keeps {min(lowest)[1]}.", rest)


def _hardened(results: Results) -> Headline:
    """For a model that `harden` wrote: accuracy under the hardest attack, before and after."""
    rest = _by_arm(results).rest
    after = [arm for arm in results.arms if arm != BEFORE]
    found = _attacked(results, results.models[0], after[0]) if after else []
    if not found:
        return Headline("No attack has been measured.", rest)
    number, against, _ = min(found, key=_accuracy)
    attack, eps = number.rows[0].attack, number.rows[0].eps
    start = results.find(results.models[0], BEFORE, attack, eps, "white-box")
    was = f"{percent(start.accuracy)} % before hardening and " if start else ""
    return Headline(f"Accuracy under {against}: {was}{percent(number.accuracy)} % after.", rest)


def _attacked(results: Results, model: str, arm: str) -> list[tuple[Measurement, str, bool]]:
    """Accuracy under each attack at its largest eps: the number, the attack in words, whether it covers everything.

    The strongest attack comes first: of equal numbers, `min` chooses it.
    """
    return [
        (number, f"{attack_name(attack)} at eps {eps:.3g}", not results.restriction(attack))
        for attack in reversed(results.attacks)
        for eps in results.epsilons(attack)[-1:]
        if (number := results.find(model, arm, attack, eps, "white-box"))
    ]


def _accuracy(found: tuple[Measurement, str, bool]) -> float:
    return found[0].accuracy


def _before_hardening(results: Results) -> str:
    """The accuracy of the standard networks."""
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


def _change(gain: Gain | None, where: str) -> list[str]:
    if gain is None:
        return []
    verb = {"supported": "rises", "contradicted": "falls", "not decided": "does not clearly change"}[gain.verdict]
    return [f"{where} accuracy {verb}: {gain.text} {gain.basis}."]


def _rises(gain: Gain | None) -> bool:
    return gain is not None and gain.low > 0


def _known(gains: dict[str, Gain | None]) -> dict[str, Gain]:
    return {name: gain for name, gain in gains.items() if gain}
