"""Early termination of runs that are unlikely to succeed any more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from inoculate.attacks.base import Attack, Ensemble
from inoculate.core.errors import InputError
from inoculate.core.threat import Norm

STAGES = range(6, 91)  # percent of the budget after which runs are judged
Number = TypeVar("Number", float, Tensor)


@runtime_checkable
class Terminating(Protocol):
    """An attack, a frozen dataclass, that can end runs which look hopeless; with an infinite ratio it ends none."""

    @property
    def termination_ratio(self) -> float: ...


def terminates(attack: Attack) -> bool:
    """Whether an attack, other than an ensemble, may end runs early."""
    return isinstance(attack, Terminating) and attack.termination_ratio < math.inf


def with_full_budget(attack: Attack) -> Attack:
    """The same attack, which ends no run early."""
    if not terminates(attack):
        return attack
    dataclass_instance: Any = attack
    full: Attack = replace(dataclass_instance, termination_ratio=math.inf)
    return full


@dataclass(frozen=True, eq=False)
class FullBudget:
    """Those members of an ensemble that may end runs early, which here end none."""

    ensemble: Ensemble

    def members(self, classes: int, norm: Norm = "linf") -> Mapping[str, Attack]:
        members = self.ensemble.members(classes, norm)
        return {name: with_full_budget(each) for name, each in members.items() if terminates(each)}


def check_termination_ratio(value: object) -> None:
    """Raise `InputError` unless `value` is a number above 0; infinity never terminates."""
    if not (isinstance(value, int | float) and value > 0):
        raise InputError(f"termination_ratio {value!r} is not usable: give a number above 0, or infinity for never")


def stages(budget: int, ratio: float) -> list[int]:
    """The steps or queries, of `budget`, after which runs are judged: in order, none if `ratio` is infinite."""
    return sorted({max(budget * percent // 100, 1) for percent in STAGES} - {budget}) if ratio < math.inf else []


def outlook(done: Number, budget: int) -> Number:
    """What `budget` may still bring after `done` steps, relative to what they have gained: 1 after a fifth.

    It is a quarter of what the mean pace so far would bring, because the pace falls.
    """
    return (budget - done) / (4 * done)


def is_hopeless(first: Tensor, best: Tensor, ratio: float | Tensor) -> Tensor:
    """Which runs (B, bool) to end: what is missing to the boundary exceeds `ratio` times what was gained so far.

    `first` and `best` (B) are the first and the highest value of an objective that is 0 at the boundary, such as the
    margin, so that −`best` is missing and `best` − `first` was gained. An image whose run ends is not adversarial yet.
    """
    return -best > ratio * (best - first)
