"""Answers about several networks: how robust each training makes them, and which of them is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inoculate.report.answers import BROKEN, ENOUGH, HOLDS, Answer
from inoculate.report.formatting import attack_name, percent, span
from inoculate.report.ladder import Ladder
from inoculate.report.plots.style import legend
from inoculate.report.results import Results

NONE, SEVERAL = "none withstands the attack", "several are about as good"
POINT = 0.01  # a difference between variants that counts


def best_networks(found: Sequence[Results]) -> Answer | None:
    """The network and training that keep most under the attack that every network met, for each dataset."""
    texts: list[str] = []
    verdicts: dict[str, list[str]] = {}
    for results in found:
        best = _best_network(results)
        if best is not None:
            title = results.title
            verdicts.setdefault(best.verdict, []).append(title)
            texts.append(f"{title}: {best.text}.")
    if not verdicts:
        return None
    if len(verdicts) == 1:
        verdict = next(iter(verdicts))
        verdict = verdict.capitalize() if verdict in (NONE, SEVERAL) else verdict
    else:
        verdict = "; ".join(f"{' and '.join(titles)}: {each}" for each, titles in verdicts.items())
    trained = any(len(results.arms) > 1 for results in found)
    question = "Which network and training is best?" if trained else "Which network is best?"
    return Answer(question, verdict, " ".join(texts))


@dataclass(frozen=True)
class _Best:
    """Which network of a dataset is best, in a few words and with its number."""

    verdict: str
    text: str


def _best_network(results: Results) -> _Best | None:
    networks = [(m, arm) for m in results.models for arm in results.arms if results.clean(m, arm)]
    for attack in sorted(results.attacks, key=("autoattack", "pgd").__contains__, reverse=True):
        eps = max(results.epsilons(attack), default=0.0)
        numbers = [results.find(*network, attack, eps, "white-box") for network in networks]
        known = [(n, each) for each, n in zip(networks, numbers, strict=True) if n]
        if len(known) < len(networks) or not known:
            continue
        known.sort(key=lambda pair: -pair[0].accuracy)
        number, (model, arm) = known[0]
        low, high = number.interval
        label = legend([arm])[0].label if len(results.arms) > 1 else ""
        name = f"{model}, {label}" if label else model
        kept = f"{percent(number.accuracy)} % [{100 * low:.1f}, {100 * high:.1f}]"
        condition, clean = f"({attack_name(attack)}, eps {eps:.3g})", results.clean(model, arm)
        if clean and number.accuracy <= BROKEN * clean.accuracy:
            return _Best(NONE, f"at most {percent(number.accuracy)} % {condition}")
        alike = sum(each.accuracy >= low for each, _ in known)
        if alike == 1:
            return _Best(name, f"it keeps {kept} {condition}")
        what = "trained networks" if len(results.arms) > 1 else "networks"
        text = f"{alike} of {len(known)} {what} cannot be told apart; the highest: {name}, {kept} {condition}"
        return _Best(SEVERAL, text)
    return None


def robust_by_training(ladders: Sequence[tuple[str, Ladder]]) -> Answer:
    """Which of the main sides are robust under the strongest attack, for each dataset."""
    question, parts, sizes, networks = "Is it robust?", [], set[float](), set[int]()
    held: dict[str, str] = {}  # by dataset, with which trainings; nothing where with none
    for title, ladder in ladders:
        attacked = [rung for rung in ladder.attacked if all(rung.bars)]
        if not attacked:
            continue
        rung = attacked[-1]
        kept = {side.label: bar.accuracy for side, bar in zip(ladder.sides, rung.bars, strict=True) if bar}
        robust = [label for label, value in kept.items() if value >= HOLDS * _clean(ladder)]
        held[title] = f"with {len(robust)} of {len(kept)} trainings" if robust else ""
        sizes.add(rung.eps)
        networks |= {bar.networks for bar in rung.bars if bar}
        parts.append(f"{title} ({rung.attack}): {_kept(kept, robust)}.")
    if not parts:
        return Answer(question, "Not measured", "")
    mean = f", mean of {span(networks)} networks" if max(networks) > 1 else ""
    at = ", ".join(f"{eps:.3g}" for eps in sorted(sizes))
    start = f"Left by the strongest attack made on every network{mean}."
    favourable = any(held.values())
    text = " ".join([start, *parts, *([ENOUGH] if favourable else [])])
    return Answer(question, f"At eps {at}: {_where(held)}" if favourable else "No", text, favourable=favourable)


def _where(held: Mapping[str, str]) -> str:
    """On which datasets, of at least one, the networks are robust, and with which trainings."""
    robust, lost = ([title for title in held if bool(held[title]) is verdict] for verdict in (True, False))
    if len(held) == 1:
        return f"yes, {held[robust[0]]}"
    verdict = ", ".join(f"on {title} {held[title]}" for title in robust)
    return verdict + (f"; not on {' and '.join(lost)}" if lost else "")


def _kept(kept: Mapping[str, float], robust: Sequence[str]) -> str:
    """What every training keeps, those that are robust first; where none is, the most that is kept."""
    if not robust:
        return f"at most {percent(max(kept.values()))} %"
    ranked = sorted(kept, key=lambda label: -kept[label])
    held, lost = (
        [f"{each} {percent(kept[each])} %" for each in ranked if (each in robust) is held] for held in (True, False)
    )
    return "robust with " + ", ".join(held) + (f"; not with {', '.join(lost)}" if lost else "")


def weakest_side(ladder: Ladder) -> Ladder:
    """The side that keeps least under attack, alone: no more can be promised for all of them."""
    attacked = [rung for rung in ladder.attacked if all(rung.bars)]
    if not attacked:
        return ladder
    last = [bar.accuracy for bar in attacked[-1].bars if bar]
    return ladder.side(last.index(min(last)))


def same_when_deployed(ladder: Ladder) -> Answer:
    """How far the variants of one network lie apart, where they do so most."""
    text, widest = "All are equal under every condition.", 0.0
    for rung in ladder.rungs:
        values = {side.label: bar.accuracy for side, bar in zip(ladder.sides, rung.bars, strict=True) if bar}
        low, high = (choose(values, key=values.__getitem__) for choose in (min, max))
        apart = values[high] - values[low]
        if apart > widest:
            widest = apart
            where = f"under {rung.attack} at eps {rung.eps:.3g}" if rung.eps else "on clean images"
            text = f"They differ most {where}: {low} {percent(values[low])} %, {high} {percent(values[high])} %."
    verdict = "No" if widest >= POINT - 1e-9 else "Yes, to within a point"
    return Answer("Is each variant as accurate?", verdict, text)


def _clean(ladder: Ladder) -> float:
    return max((bar.accuracy for rung in ladder.rungs if rung.eps == 0 for bar in rung.bars if bar), default=1.0)
