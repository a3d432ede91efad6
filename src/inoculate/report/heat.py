"""Which examples fool which network, before and after hardening."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inoculate.report.layout import attack_name
from inoculate.report.select import Number, Results, natural

ANEW = "itself, crafted anew"


@dataclass(frozen=True)
class Heat:
    """A matrix of mean accuracies in [0, 1]: a row per origin of the examples, a column per network judged on them."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, list[float | None]]]


def transfers(results: Results) -> list[Heat]:
    """One matrix for the standard networks, one per hardened arm; empty where nothing was ever transferred."""
    if not results.attacks:
        return []
    attack = results.attacks[0]
    origins = sorted({row.protocol for row in results.rows if row.protocol.startswith("transfer:")}, key=natural)
    maps = []
    for arm in sorted(results.arms, key=lambda arm: (arm != "standard", arm != "transferred")):
        rows = [(_origin(protocol), [_mean(results, protocol, m, arm, attack) for m in results.models])
                for protocol in origins]  # fmt: skip
        if arm == "standard":  # an example crafted on a standard network and judged on it: its white-box number
            rows = [
                (name, [_mean(results, "white-box", m, arm, attack) if name == m else v
                        for m, v in zip(results.models, values, strict=True)])
                for name, values in rows
            ]  # fmt: skip
            rows += [
                (m, [_mean(results, "white-box", m, arm, attack) if m == v else None for v in results.models])
                for m in results.models if m not in {name for name, _ in rows}
            ]  # fmt: skip
            rows.sort(key=lambda row: natural(row[0]))
        else:
            rows.append((ANEW, [_mean(results, "white-box", m, arm, attack) for m in results.models]))
        rows = [(name, values) for name, values in rows if any(value is not None for value in values)]
        if any(
            name not in (m, ANEW) and v is not None
            for name, vs in rows
            for m, v in zip(results.models, vs, strict=True)
        ):
            when = "before hardening" if arm == "standard" else f"after hardening ({arm})"
            maps.append(Heat(f"{attack_name(attack)} images, {when}", tuple(results.models), rows))
    return maps


def _origin(protocol: str) -> str:
    return protocol.removeprefix("transfer:").removesuffix("/standard")


def _mean(results: Results, protocol: str, model: str, arm: str, attack: str) -> float | None:
    found: Sequence[Number | None] = [
        results.under(protocol, model, arm, attack, eps) for eps in results.epsilons(attack)
    ]
    known = [number.accuracy for number in found if number]
    return sum(known) / len(known) if len(known) == len(found) and known else None
