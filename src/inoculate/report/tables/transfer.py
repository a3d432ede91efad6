"""Accuracy of every network on the adversarial examples of every other, before and after hardening."""

from __future__ import annotations

from dataclasses import dataclass

from inoculate.report.formatting import attack_name
from inoculate.report.results import Results, natural_order

ANEW = "itself, crafted anew"
_Line = tuple[str, list[float | None]]


@dataclass(frozen=True)
class Heatmap:
    """A matrix of mean accuracies in [0, 1]: a row per source of the examples, a column per evaluated network."""

    title: str
    columns: tuple[str, ...]
    rows: list[_Line]


def transfer_heatmaps(results: Results) -> list[Heatmap]:
    """One matrix for the standard networks and one per hardened arm; empty where nothing was transferred."""
    if not results.attacks:
        return []
    maps = []
    for arm in sorted(results.arms, key=lambda arm: (arm != "standard", arm != "transferred")):
        lines = [line for line in _lines(results, arm) if any(value is not None for value in line[1])]
        if any(_is_transfer(name, model, value) for name, values in lines
               for model, value in zip(results.models, values, strict=True)):  # fmt: skip
            when = "before hardening" if arm == "standard" else f"after hardening ({arm})"
            maps.append(Heatmap(f"{attack_name(results.attacks[0])} images, {when}", tuple(results.models), lines))
    return maps


def _lines(results: Results, arm: str) -> list[_Line]:
    """A line per source of transferred examples, and the white-box accuracies."""
    sources = sorted({row.protocol for row in results.rows if row.protocol.startswith("transfer:")}, key=natural_order)
    lines = {_source(protocol): [_mean(results, protocol, m, arm) for m in results.models] for protocol in sources}
    white = {model: _mean(results, "white-box", model, arm) for model in results.models}
    if arm != "standard":
        return [*lines.items(), (ANEW, list(white.values()))]
    # An example crafted on a standard network and evaluated on it: its white-box accuracy.
    for name in results.models:
        others = lines.get(name, [None] * len(results.models))
        lines[name] = [white[m] if m == name else value for m, value in zip(results.models, others, strict=True)]
    return sorted(lines.items(), key=lambda line: natural_order(line[0]))


def _is_transfer(source: str, model: str, value: float | None) -> bool:
    return source not in (model, ANEW) and value is not None


def _source(protocol: str) -> str:
    return protocol.removeprefix("transfer:").removesuffix("/standard")


def _mean(results: Results, protocol: str, model: str, arm: str) -> float | None:
    """Mean over eps under the main attack; None where an eps is missing."""
    attack = results.attacks[0]
    found = [results.find_protocol(protocol, model, arm, attack, eps) for eps in results.epsilons(attack)]
    known = [number.accuracy for number in found if number]
    return sum(known) / len(known) if len(known) == len(found) and known else None
