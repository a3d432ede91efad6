"""Answers about several networks: how robust each training makes them, and which of them is best."""

from __future__ import annotations

from collections.abc import Sequence

from inoculate.report import published
from inoculate.report.answers import HOLDS, Answer
from inoculate.report.formatting import attack_name, norm_name, percent
from inoculate.report.ladder import Ladder
from inoculate.report.plots.style import legend
from inoculate.report.results import Results

POINT = 0.01  # a difference between variants that counts


def title_of(results: Results) -> str:
    """The dataset, and the norm where it is not the usual one."""
    return published.title(results.dataset) + ("" if results.norm == "linf" else f" ({norm_name(results.norm)})")


def best_networks(found: Sequence[Results]) -> Answer | None:
    """The network and training that keep most under the attack that every network met, for each dataset."""
    parts: list[tuple[str, str]] = []
    names: set[str] = set()  # "" where none is clearly ahead
    for results in found:
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
            clear = len(known) == 1 or known[1][0].accuracy < low
            label = legend([arm])[0].label if len(results.arms) > 1 else ""
            best = f"{model}, {label}" if label else model
            names.add(best if clear else "")
            condition, doubt = f"{attack_name(attack)} at eps {eps:.3g}", "" if clear else ", not clearly ahead"
            found_here = f"{best} {percent(number.accuracy)} % [{100 * low:.0f}, {100 * high:.0f}]{doubt}"
            parts.append((condition, f"{title_of(results)} {found_here}"))
            break
    if not parts:
        return None
    verdict = "None is clearly ahead" + (" everywhere" if len(names) > 1 else "")
    if "" not in names:
        verdict = "It depends on the data" if len(names) > 1 else names.pop()
    return Answer("Which network is best?", verdict, _by_condition(parts, "the most is left with:"))


def robust_by_training(ladders: Sequence[tuple[str, Ladder]]) -> Answer:
    """What the first and the last of the main sides keep under the strongest attack, for each dataset."""
    parts: list[tuple[str, str]] = []
    robust: dict[str, bool] = {}
    for title, ladder in ladders:
        attacked = [rung for rung in ladder.attacked if all(rung.bars)]
        if not attacked:
            continue
        rung = attacked[-1]
        values = [(side, bar.accuracy) for side, bar in zip(ladder.sides, rung.bars, strict=True) if bar]
        best = max(values, key=lambda pair: pair[1])
        robust[title] = best[1] >= HOLDS * _clean(ladder)
        networks = max(bar.networks for bar in rung.bars if bar)
        average = f", averaged over {networks} networks," if networks > 1 else ""
        start = f"{title} {percent(values[0][1])} % with {values[0][0].label}"
        most = f", at best {percent(best[1])} % ({best[0].label})" if best[0] is not values[0][0] else ", the best"
        parts.append((f"{rung.note} at eps {rung.eps:.3g}{average}", start + most))
    held, lost = ([title for title, holds in robust.items() if holds is verdict] for verdict in (True, False))
    if held and lost:
        verdict = f"On {', '.join(held)} with the best training; not on {' and '.join(lost)}"
    else:
        verdict = "Yes, with the best training" if held else "No"
    text = _by_condition(parts, "what is left:")
    return Answer("Is it robust?", verdict if parts else "Not measured", text, favourable=bool(held))


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


def _by_condition(parts: Sequence[tuple[str, str]], verb: str) -> str:
    """Findings in a sentence for each condition under which they were made."""
    conditions = dict.fromkeys(condition for condition, _ in parts)
    found = {name: "; ".join(text for condition, text in parts if condition == name) for name in conditions}
    return " ".join(f"Under {name} {verb} {text}." for name, text in found.items())


def _clean(ladder: Ladder) -> float:
    return max((bar.accuracy for rung in ladder.rungs if rung.eps == 0 for bar in rung.bars if bar), default=1.0)
