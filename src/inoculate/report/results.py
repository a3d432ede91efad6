"""Rows grouped by dataset and norm, and looked up by network, arm, attack, eps and reading."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from inoculate.core.row import CERTIFIED, Row
from inoculate.core.stats import wilson
from inoculate.report import published
from inoculate.report.formatting import norm_name

READINGS = ("white-box", "replayed", "surrogate's")
BEFORE, AFTER = "before", "after"  # arms of a hardened network; AFTER where no method changed the weights
_ARMS = (BEFORE, "standard", "duplicates", "noise", "augmented", "transferred")
_Key = tuple[str, str, str, str, str]


class View(NamedTuple):
    """An attack under a reading of "accuracy on adversarial images"; `none` is clean accuracy."""

    attack: str
    reading: str


CLEAN = View("none", "white-box")


@dataclass(frozen=True)
class Measurement:
    """One accuracy, measured once per seed."""

    rows: tuple[Row, ...]

    @property
    def accuracy(self) -> float:
        """Mean over seeds, in [0, 1]."""
        return sum(row.accuracy for row in self.rows) / len(self.rows)

    @property
    def correct(self) -> int:
        """Correct predictions, summed over seeds."""
        return sum(row.correct for row in self.rows)

    @property
    def n(self) -> int:
        """Images, summed over seeds."""
        return sum(row.n for row in self.rows)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the counts pooled over seeds."""
        return wilson(self.correct, self.n)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds it was measured with."""
        return tuple(row.seed for row in self.rows)


@dataclass(frozen=True)
class Results:
    """The rows of one dataset under one norm, which names the mask too where there is one."""

    dataset: str
    norm: str
    surrogate: str | None
    rows: tuple[Row, ...]
    cells: Mapping[_Key, Mapping[int, Row]]

    @property
    def title(self) -> str:
        """The dataset in print, and the norm where it is not the usual one."""
        return published.title(self.dataset) + ("" if self.norm == "linf" else f" ({norm_name(self.norm)})")

    @property
    def models(self) -> list[str]:
        """Every network, by name."""
        return sorted({row.model for row in self.rows}, key=natural_order)

    @property
    def arms(self) -> list[str]:
        """The known arms in the paper's order, then any other."""
        return sorted({row.arm for row in self.rows}, key=arm_order)

    @property
    def attacks(self) -> list[str]:
        """The main attack (`fgsm` where there is one), then the others, ensembles last; a proof is none."""
        found = sorted({row.attack for row in self.rows} - {"none", CERTIFIED})
        return sorted(found, key=lambda name: (name != "fgsm", name != "pgd", name.startswith("autoattack")))

    @property
    def conditions(self) -> list[str]:
        """The attacks, and the proof where there is one."""
        return [*self.attacks, *([CERTIFIED] if any(row.attack == CERTIFIED for row in self.rows) else [])]

    @property
    def seeds(self) -> list[int]:
        """Every seed, ascending."""
        return sorted({row.seed for row in self.rows})

    def epsilons(self, attack: str) -> list[float]:
        """Every eps measured under an attack, ascending."""
        return sorted({f"{row.eps:g}": row.eps for row in self.rows if row.attack == attack and row.eps > 0}.values())

    def restriction(self, attack: str) -> str:
        """The networks and eps of an attack that covers fewer of them than the main attack, in words; else ''."""
        cells = {(row.attack, row.model, f"{row.eps:g}") for row in self.rows}
        main, own = ({cell[1:] for cell in cells if cell[0] == name} for name in (self.conditions[0], attack))
        if main <= own:
            return ""
        models = sorted({model for model, _ in own}, key=natural_order)
        eps = ", ".join(f"{eps:.3g}" for eps in self.epsilons(attack))
        return f"{', '.join(models)} at eps {eps}" if models != self.models else f"at eps {eps}"

    def find(self, model: str, arm: str, attack: str, eps: float, reading: str) -> Measurement | None:
        """The accuracy of a network under a reading, or None where it has not been measured."""
        protocol = protocol_of(reading, model, arm, self.surrogate)
        return self.find_protocol(protocol, model, arm, attack, eps) if protocol else None

    def find_protocol(self, protocol: str, model: str, arm: str, attack: str, eps: float) -> Measurement | None:
        """The accuracy of a network under a row protocol, or None where it has not been measured."""
        found = self.cells.get(_key(model, arm, attack, eps, protocol))
        return Measurement(tuple(found[seed] for seed in sorted(found))) if found else None

    def clean(self, model: str, arm: str) -> Measurement | None:
        """The accuracy of a network on clean images, or None where it has not been measured."""
        return self.find(model, arm, "none", 0.0, "white-box")


def protocol_of(reading: str, model: str, arm: str, surrogate: str | None) -> str | None:
    """The row protocol of a reading; None where it needs a surrogate and none is known.

    A network's own examples replayed on itself are white-box, so that `standard` has no separate replayed row.
    """
    if reading == "white-box":
        return "white-box"
    source = model if reading == "replayed" else surrogate
    if source is None:
        return None
    return "white-box" if source == model and arm == "standard" else f"transfer:{source}/standard"


def collect(rows: Iterable[Row], surrogate: Mapping[str, str] | None = None) -> list[Results]:
    """Group rows by dataset, norm and mask, in order of appearance; clean rows belong to every group of their dataset.

    `surrogate` names each dataset's surrogate; where it does not, it is inferred from the transfer protocols.
    """
    by_dataset: dict[str, list[Row]] = {}
    for row in rows:
        if row.has_eps:  # corruptions and movements have tables of their own
            by_dataset.setdefault(row.dataset, []).append(row)
    results = []
    for dataset, found in by_dataset.items():
        name = (surrogate or {}).get(dataset) or infer_surrogate(found)
        attacked = list(dict.fromkeys(row.space for row in found if row.attack != "none"))
        for norm in attacked or [found[0].norm]:
            chosen = tuple(row for row in found if row.attack == "none" or row.space == norm)
            results.append(Results(dataset, norm, name, chosen, _index(chosen)))
    return results


def infer_surrogate(rows: Sequence[Row]) -> str | None:
    """The network whose `standard` examples are replayed on other networks, or None where there is none."""
    sources: Counter[str] = Counter()
    for row in rows:
        match = re.fullmatch(r"transfer:(.+)/standard", row.protocol)
        if match and match[1] != row.model:
            sources[match[1]] += 1
    return min(sources, key=lambda name: (-sources[name], name)) if sources else None


def arm_order(arm: str) -> tuple[int, str]:
    """Sort key: the known arms in the paper's order, then any other by name."""
    return (_ARMS.index(arm), "") if arm in _ARMS else (len(_ARMS), arm)


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key that compares numbers as numbers: resnet18 before resnet101."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _index(rows: Iterable[Row]) -> dict[_Key, dict[int, Row]]:
    cells: dict[_Key, dict[int, Row]] = {}
    for row in rows:
        protocol = "white-box" if row.attack == "none" else row.protocol
        cells.setdefault(_key(row.model, row.arm, row.attack, row.eps, protocol), {})[row.seed] = row
    return cells


def _key(model: str, arm: str, attack: str, eps: float, protocol: str) -> _Key:
    return model, arm, attack, "0" if attack == "none" else f"{eps:g}", protocol
