"""Which images of a study fail first: how many under its weakest condition, and of which classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inoculate.core.groups import GroupAccuracy, accuracy_by
from inoculate.report.answers import FAIL_FIRST, Answer
from inoculate.report.formatting import attack_name, percent
from inoculate.report.results import Measurement, Results
from inoculate.report.run import RunRecord


@dataclass(frozen=True)
class FirstToFail:
    """What the main attack at its smallest eps leaves of one network.

    clean, attacked: shares of the images that are classified correctly, in [0, 1]. classes: the same under the attack
    by class, the worst first; empty where the run did not keep the labels.
    """

    title: str
    attack: str
    eps: float
    clean: float
    attacked: float
    classes: Sequence[GroupAccuracy]

    @property
    def condition(self) -> str:
        """The attack and its eps in words."""
        return f"{attack_name(self.attack)} at eps {self.eps:.3g}"


def first_to_fail(run: RunRecord, results: Results, network: tuple[str, str]) -> FirstToFail | None:
    """What a study measured of a network (model, arm) at its smallest eps; None where it did not."""
    if not results.attacks:
        return None
    attack = results.attacks[0]
    eps = min(results.epsilons(attack), default=0.0)
    clean, attacked = results.clean(*network), results.find(*network, attack, eps, "white-box")
    if not clean or not attacked:
        return None
    classes = _by_class(run, results.dataset, attacked)
    return FirstToFail(results.title, attack, eps, clean.accuracy, attacked.accuracy, classes)


def _by_class(run: RunRecord, dataset: str, measured: Measurement) -> list[GroupAccuracy]:
    """Accuracy by class over all seeds; empty where labels or records are missing, or there is one class only."""
    names: list[str] = []
    right = []
    for row in measured.rows:
        labels, outcome = run.labels(dataset, row.seed), run.records.get(row.key)
        if outcome is None or len(labels) < len(outcome):
            return []
        names += labels[: len(outcome)]
        right.append(outcome)
    groups = accuracy_by(names, np.concatenate(right), np.ones(len(names), dtype=bool))
    return groups if len(groups) > 1 else []


def which_classes_fail_first(found: Sequence[FirstToFail], who: str, pictured: bool) -> Answer:
    """The answer of a study, of at least one data set; who: the network and its training, empty if there is one.

    pictured: whether the page shows images that fail.
    """
    several = len(found) > 1
    named = {each.title: each for each in found if several}
    told = [f"{title}: {_worst(each)}" for title, each in named.items()] or [_worst(found[0])]
    conditions = " or ".join(dict.fromkeys(each.condition for each in found))
    fooled = ", ".join(f"{percent(1 - each.attacked)} %" for each in found)
    wrong = ", ".join(f"{percent(1 - each.clean)} %" for each in found)
    spared = dict.fromkeys(
        f"“{each.classes[-1].name}” ({percent(1 - each.classes[-1].accuracy)} %)" for each in found if _differ(each)
    )
    text = [
        f"Wrong under {conditions}, the smallest measured.",
        f"Of all images: {fooled} (without an attack {wrong}).",
        f"Last to fail: {', '.join(spared)}." if spared else "",
        f"Measured on {who}." if who else "",
        "The pictures are some of the images that it fools, before the attack." if pictured else "",
    ]
    anchor = "failures" if pictured else "classes" if any(each.classes for each in found) else ""
    verdict = "; ".join(told)
    return Answer(FAIL_FIRST, verdict[:1].upper() + verdict[1:], " ".join(filter(None, text)), anchor)


def _differ(found: FirstToFail) -> bool:
    """Whether the intervals of the worst and of the best class are apart."""
    return len(found.classes) > 1 and found.classes[0].interval[1] < found.classes[-1].interval[0]


def _worst(found: FirstToFail) -> str:
    """The class that suffers most, with the share of its images that fail."""
    if not found.classes:
        return f"{percent(1 - found.attacked)} % of the images"
    if not _differ(found):
        return "all classes about alike"
    worst = found.classes[0]
    return f"images of “{worst.name}” ({percent(1 - worst.accuracy)} % fail)"
