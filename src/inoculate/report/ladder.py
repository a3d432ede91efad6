"""The picture at the head of a page: accuracy from clean images to the strongest attack, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from inoculate.core.results import hardest
from inoculate.core.row import CERTIFIED
from inoculate.report.between import between
from inoculate.report.formatting import attack_name, norm_name, percent
from inoculate.report.plots.style import LegendEntry, legend
from inoculate.report.results import AFTER, BEFORE, Measurement, Results

REPLAYED = "images crafted before the retraining"
MOST_SIDES, MOST_EPS = 5, 4
_SIDE_COLORS = ("augmented", "standard", "transferred", "spare-0", "spare-1")
Networks = tuple[tuple[str, str], ...]  # (model, arm)


@dataclass(frozen=True)
class Side:
    """What is compared: one network, or an arm as the mean over its networks; its colour as CSS."""

    label: str
    color: str
    networks: Networks


@dataclass(frozen=True)
class Bar:
    """One accuracy in [0, 1], its 95 % interval (None for a mean over networks), and what it was measured with.

    Where it is proved, `attacked` is the lowest accuracy under an attack, `strongest`: the truth lies between both.
    """

    accuracy: float
    interval: tuple[float, float] | None
    n: int
    attack: str
    networks: int
    attacked: float | None = None
    strongest: str = ""

    @property
    def words(self) -> str:
        """Interval, n and attack, for those who point at the bar."""
        name = "clean" if self.attack == "none" else attack_name(self.attack)
        low, high = self.interval or (0.0, 0.0)
        exact = f"95 % interval {percent(low)} to {percent(high)}" if self.interval else ""
        exact = exact or f"mean of {self.networks} networks"
        between = ""
        if self.attacked is not None:
            between = f", {percent(self.attacked)} % under {self.strongest}: the best possible attack lies between"
        return f"{name}: {percent(self.accuracy)} %{between}, {exact}, n = {self.n:,}"


@dataclass(frozen=True)
class Rung:
    """One condition: its name, a word on it, and the bar of every side (None: not measured)."""

    label: str
    note: str
    eps: float
    bars: list[Bar | None]
    proved: bool = False

    @property
    def attack(self) -> str:
        """The attack of each bar in words."""
        return " or ".join(dict.fromkeys(attack_name(bar.attack) for bar in self.bars if bar))


@dataclass(frozen=True)
class Ladder:
    """Sides and rungs, the weakest condition first; `attacks` are those of which a rung shows the strongest."""

    sides: list[Side]
    rungs: list[Rung]
    attacks: list[str]

    @property
    def attacked(self) -> list[Rung]:
        """The rungs under white-box attack."""
        return [rung for rung in self.rungs if rung.eps > 0 and not rung.proved and rung.note != REPLAYED]

    @property
    def has_intervals(self) -> bool:
        """Whether the intervals of its bars are drawn."""
        return any(bar and bar.interval for rung in self.rungs for bar in rung.bars)

    def side(self, place: int) -> Ladder:
        """The side at this place alone."""
        rungs = [replace(rung, bars=[rung.bars[place]]) for rung in self.rungs]
        return replace(self, sides=[self.sides[place]], rungs=rungs)


def ladder_of(results: Results, brief: bool = False) -> Ladder:
    """The ladder of one dataset and norm; `brief` keeps the largest eps only. Without rungs if nothing was measured."""
    sides = _sides(results)
    clean = Rung("Clean images", "no attack", 0.0, [_bar(results, side, "none", 0.0) for side in sides])
    rungs = [clean] if any(clean.bars) else []
    shared = [attack for attack in results.attacks if _covers(results, sides, attack)]
    attacks = shared or results.attacks
    epsilons = sorted({f"{eps:g}": eps for attack in attacks for eps in results.epsilons(attack)}.values())
    if brief:
        rungs += _replayed(results, sides, attacks, epsilons[-1:])
    if len(epsilons) == 1:
        rungs += sorted(
            (_rung(results, sides, [attack], epsilons[0], attack_name(attack)) for attack in attacks),
            key=lambda rung: -_mean(rung),
        )
    else:
        for eps in epsilons[-1:] if brief else _spread(epsilons, MOST_EPS):
            rungs.append(_rung(results, sides, attacks, eps, ""))
    rungs += _proved(results, sides)
    return Ladder(sides, _comparable([rung for rung in rungs if any(rung.bars)]), attacks)


def _comparable(rungs: list[Rung]) -> list[Rung]:
    """The rungs that every side has; all of them where no attack was measured on every side."""
    whole = [rung for rung in rungs if all(rung.bars)]
    return whole if any(rung.eps > 0 and not rung.proved for rung in whole) else rungs


def _sides(results: Results) -> list[Side]:
    arms, models = results.arms, results.models
    if len(arms) == 1 or not {BEFORE, "standard"} & set(arms):
        networks = [(model, arm) for model in models for arm in arms if _measured(results, model, arm)]
        named = len(models) > 1  # else the title says which network it is
        labels = [
            (f"{model}, {arm}" if named else arm) if _arms_of(results, model) > 1 else model for model, arm in networks
        ]
        return [
            Side(label, f"var(--{_SIDE_COLORS[place % len(_SIDE_COLORS)]})", (network,))
            for place, (label, network) in enumerate(zip(labels, networks, strict=True))
        ][:MOST_SIDES]
    chosen = [BEFORE] if BEFORE in arms else ["standard"]
    others = [arm for arm in arms if arm not in (*chosen, "duplicates", "noise")]
    paper = [arm for arm in ("augmented", "transferred") if arm in others]
    if not paper:
        others.sort(key=lambda arm: -_robust(results, arm))
    chosen += (paper or others)[:2] if len(others) > 1 else others
    chosen += [arm for arm in ("duplicates", "noise") if arm in arms and "transferred" in chosen]
    entries = {entry.arm: entry for entry in legend(arms)}
    return [
        Side(
            _label(entries[arm], BEFORE in arms),
            entries[arm].color,
            tuple((m, arm) for m in models if _measured(results, m, arm)),
        )
        for arm in chosen
    ]


def _label(entry: LegendEntry, hardened: bool) -> str:
    if not hardened or entry.arm == BEFORE:
        return entry.label
    return "after hardening" + (f" ({entry.arm})" if entry.arm != AFTER else "")


def _arms_of(results: Results, model: str) -> int:
    return len({row.arm for row in results.rows if row.model == model})


def _measured(results: Results, model: str, arm: str) -> bool:
    return any(row.model == model and row.arm == arm for row in results.rows)


def _robust(results: Results, arm: str) -> float:
    """The lowest accuracy of an arm, averaged over networks."""
    lows = [
        min((r.accuracy for r in results.rows if (r.model, r.arm) == (m, arm)), default=0.0) for m in results.models
    ]
    return sum(lows) / len(lows)


def _covers(results: Results, sides: Sequence[Side], attack: str) -> bool:
    """Whether an attack was measured on every network of every side, at some eps."""
    return all(
        any(results.find(*network, attack, eps, "white-box") for eps in results.epsilons(attack))
        for side in sides
        for network in side.networks
    )


def _bar(results: Results, side: Side, attack: str, eps: float, reading: str = "white-box") -> Bar | None:
    found = [results.find(*network, attack, eps, reading) for network in side.networks]
    numbers: list[Measurement] = [number for number in found if number]
    if not numbers or len(numbers) < len(side.networks):
        return None
    accuracy = sum(number.accuracy for number in numbers) / len(numbers)
    interval = numbers[0].interval if len(numbers) == 1 else None
    return Bar(accuracy, interval, min(number.n for number in numbers), attack, len(numbers))


def _rung(results: Results, sides: Sequence[Side], attacks: Sequence[str], eps: float, name: str) -> Rung:
    """The strongest of the attacks at one eps, for each side by itself."""
    bars = []
    for side in sides:
        tried = [bar for attack in attacks if (bar := _bar(results, side, attack, eps))]
        bars.append(hardest(tried) if tried else None)
    strongest = list(dict.fromkeys(attack_name(bar.attack) for bar in bars if bar))
    note = f"{norm_name(results.norm)} eps {eps:.3g}" if name else " or ".join(strongest)
    return Rung(name or f"Attacked, eps {eps:.3g}", note, eps, list(bars))


def _replayed(results: Results, sides: Sequence[Side], attacks: Sequence[str], epsilons: Sequence[float]) -> list[Rung]:
    """The examples crafted before the retraining, where they were replayed."""
    rungs = []
    for eps in epsilons if attacks else ():
        bars = [
            None if side.networks[0][1] == "standard" else _bar(results, side, attacks[0], eps, "replayed")
            for side in sides
        ]
        if any(bars):
            bars[0] = bars[0] or _bar(results, sides[0], attacks[0], eps)
            rungs.append(Rung(f"{attack_name(attacks[0])} replayed, eps {eps:.3g}", REPLAYED, eps, bars))
    return rungs


def _proved(results: Results, sides: Sequence[Side]) -> list[Rung]:
    """The certified lower bounds, at up to two eps."""
    rungs = []
    for eps in results.epsilons(CERTIFIED)[-2:]:
        bars = [_proved_bar(results, side, eps) for side in sides]
        rungs.append(Rung(f"Proved, eps {eps:.3g}", "no attack can do worse", eps, bars, proved=True))
    return rungs


def _proved_bar(results: Results, side: Side, eps: float) -> Bar | None:
    """What is proved, up to what the strongest attack leaves."""
    bar, found = _bar(results, side, CERTIFIED, eps), between(results, *side.networks[0], eps)
    if bar is None or found is None or len(side.networks) > 1:
        return bar
    return replace(bar, attacked=found.attacked.accuracy, strongest=found.attack)


def _spread(values: Sequence[float], most: int) -> list[float]:
    """At most `most` of the values, evenly spread, the last among them."""
    step = -(-len(values) // most) if values else 1
    return list(values[::-step][::-1])


def _mean(rung: Rung) -> float:
    known = [bar.accuracy for bar in rung.bars if bar]
    return sum(known) / len(known) if known else 0.0
