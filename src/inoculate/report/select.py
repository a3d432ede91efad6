"""Finding numbers among rows: the three readings, seeds put together, the surrogate inferred."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from inoculate.core.row import Row
from inoculate.core.stats import wilson

READINGS = ("white-box", "replayed", "surrogate's")
ARMS = ("standard", "duplicates", "noise", "augmented", "transferred")
_Key = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class Number:
    """One accuracy over its seeds, one row per seed."""

    rows: tuple[Row, ...]

    @property
    def accuracy(self) -> float:
        """Mean over seeds, in [0, 1]."""
        return sum(row.accuracy for row in self.rows) / len(self.rows)

    @property
    def correct(self) -> int:
        return sum(row.correct for row in self.rows)

    @property
    def n(self) -> int:
        return sum(row.n for row in self.rows)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson interval of the counts pooled over seeds."""
        return wilson(self.correct, self.n)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(row.seed for row in self.rows)


@dataclass(frozen=True)
class Results:
    """The rows of one dataset under one norm, looked up by what they measure."""

    dataset: str
    norm: str
    surrogate: str | None
    rows: tuple[Row, ...]
    cells: Mapping[_Key, Mapping[int, Row]]

    @property
    def models(self) -> list[str]:
        return sorted({row.model for row in self.rows}, key=natural)

    @property
    def arms(self) -> list[str]:
        """The known arms in the order of the paper's argument, then any other."""
        return sorted({row.arm for row in self.rows}, key=in_order)

    @property
    def attacks(self) -> list[str]:
        """The main attack (`fgsm` where there is one), then the others."""
        found = sorted({row.attack for row in self.rows} - {"none"})
        return sorted(found, key=lambda name: (name != "fgsm", name != "pgd"))

    @property
    def seeds(self) -> list[int]:
        return sorted({row.seed for row in self.rows})

    def epsilons(self, attack: str) -> list[float]:
        """Return every eps measured under an attack, ascending."""
        return sorted({f"{row.eps:g}": row.eps for row in self.rows if row.attack == attack and row.eps > 0}.values())

    def narrower(self, attack: str) -> str:
        """Where an attack was made, in words, if not on every network and at every eps of the main attack; else ''."""
        cells = {(row.attack, row.model, f"{row.eps:g}") for row in self.rows}
        usual, own = ({cell[1:] for cell in cells if cell[0] == name} for name in (self.attacks[0], attack))
        if usual <= own:
            return ""
        models = sorted({model for model, _ in own}, key=natural)
        eps = ", ".join(f"{eps:.3g}" for eps in self.epsilons(attack))
        return f"{', '.join(models)} at eps {eps}" if models != self.models else f"at eps {eps}"

    def find(self, model: str, arm: str, attack: str, eps: float, reading: str) -> Number | None:
        """Return the accuracy of a network under a reading, or None where it has not been measured."""
        protocol = protocol_of(reading, model, arm, self.surrogate)
        return self.under(protocol, model, arm, attack, eps) if protocol else None

    def under(self, protocol: str, model: str, arm: str, attack: str, eps: float) -> Number | None:
        """Return the accuracy of a network under a row protocol, or None where it has not been measured."""
        found = self.cells.get(_key(model, arm, attack, eps, protocol))
        return Number(tuple(found[seed] for seed in sorted(found))) if found else None

    def clean(self, model: str, arm: str) -> Number | None:
        """Return the accuracy of a network on clean images, or None where it has not been measured."""
        return self.find(model, arm, "none", 0.0, "white-box")


def protocol_of(reading: str, model: str, arm: str, surrogate: str | None) -> str | None:
    """Return the row protocol of a reading; None when it needs a surrogate and none is known.

    A network's own examples replayed on itself are white-box: `standard` has no separate replayed row.
    """
    if reading == "white-box":
        return "white-box"
    source = model if reading == "replayed" else surrogate
    if source is None:
        return None
    return "white-box" if source == model and arm == "standard" else f"transfer:{source}/standard"


def collect(rows: Iterable[Row], surrogate: Mapping[str, str] | None = None) -> list[Results]:
    """Group rows by dataset and norm, in order of appearance; clean rows belong to every norm of their dataset.

    `surrogate` names each dataset's surrogate; where it does not, it is inferred from the transfer protocols.
    """
    by_dataset: dict[str, list[Row]] = {}
    for row in rows:
        by_dataset.setdefault(row.dataset, []).append(row)
    results = []
    for dataset, found in by_dataset.items():
        name = (surrogate or {}).get(dataset) or infer_surrogate(found)
        attacked = list(dict.fromkeys(row.norm for row in found if row.attack != "none"))
        for norm in attacked or [found[0].norm]:
            chosen = tuple(row for row in found if row.attack == "none" or row.norm == norm)
            results.append(Results(dataset, norm, name, chosen, _index(chosen)))
    return results


def infer_surrogate(rows: Sequence[Row]) -> str | None:
    """Return the network whose `standard` examples are replayed on other networks, or None where there is none."""
    sources: Counter[str] = Counter()
    for row in rows:
        match = re.fullmatch(r"transfer:(.+)/standard", row.protocol)
        if match and match[1] != row.model:
            sources[match[1]] += 1
    return min(sources, key=lambda name: (-sources[name], name)) if sources else None


def in_order(arm: str) -> tuple[int, str]:
    """Sort key: the known arms in the order of the paper's argument, then any other."""
    return (ARMS.index(arm), "") if arm in ARMS else (len(ARMS), arm)


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key that counts: resnet18 before resnet101."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _index(rows: Iterable[Row]) -> dict[_Key, dict[int, Row]]:
    cells: dict[_Key, dict[int, Row]] = {}
    for row in rows:
        protocol = "white-box" if row.attack == "none" else row.protocol
        cells.setdefault(_key(row.model, row.arm, row.attack, row.eps, protocol), {})[row.seed] = row
    return cells


def _key(model: str, arm: str, attack: str, eps: float, protocol: str) -> _Key:
    return model, arm, attack, "0" if attack == "none" else f"{eps:g}", protocol
