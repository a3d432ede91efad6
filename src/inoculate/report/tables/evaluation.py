"""Tables for one model: its white-box accuracies, and what they were before hardening."""

from __future__ import annotations

from inoculate.core.row import CERTIFIED
from inoculate.report.between import BEST, between
from inoculate.report.formatting import MISSING, attack_name, points
from inoculate.report.results import AFTER, BEFORE, Measurement, Results
from inoculate.report.tables.table import Table, accuracy_cell

_NOTE = "95 % Wilson intervals; every test image counts, a clean error is an error. Attack none: clean images."


def accuracy_table(results: Results) -> Table:
    """Every white-box accuracy of results that have one arm."""
    rows = [
        [model, attack_name(attack), _size(results, eps), accuracy_cell(number, number.n), f"{number.n:,}"]
        for model in results.models
        for attack, eps in _columns(results)
        if (number := results.find(model, results.arms[0], attack, eps, "white-box"))
    ]
    rows += [
        [model, BEST, _size(results, eps), found.words, f"{found.proved.n:,}"]
        for model in results.models
        for eps in results.epsilons(CERTIFIED)
        if (found := between(results, model, results.arms[0], eps))
    ]
    return Table("Accuracy, %", _NOTE, ("network", "attack", "eps", "accuracy", "n"), rows)


def before_after_table(results: Results) -> Table:
    """White-box accuracies of a network before and after hardening, side by side."""
    (after, *_) = [arm for arm in results.arms if arm != BEFORE] or [BEFORE]
    rows = []
    for model in results.models:
        for attack, eps in _columns(results):
            pair = [results.find(model, arm, attack, eps, "white-box") for arm in (BEFORE, after)]
            rows.append(
                [attack_name(attack), _size(results, eps), *(_cell(number) for number in pair), *_difference(*pair)]
            )
        for eps in results.epsilons(CERTIFIED):
            bounds = [between(results, model, arm, eps) for arm in (BEFORE, after)]
            cells = [each.words if each else MISSING for each in bounds]
            n = f"{bounds[1].proved.n:,}" if bounds[1] else MISSING
            rows.append([BEST, _size(results, eps), *cells, MISSING, n])
    columns = ("attack", "eps", "before", "after" if after == AFTER else f"after ({after})", "difference", "n")
    return Table("Accuracy before and after hardening, %", _NOTE, columns, rows)


def _columns(results: Results) -> list[tuple[str, float]]:
    """Clean images, then every attack at every eps."""
    attacked = [(attack, eps) for attack in results.conditions for eps in results.epsilons(attack)]
    return [("none", 0.0), *attacked]


def _size(results: Results, eps: float) -> str:
    """The eps to print; of a union, each norm with its own."""
    united = dict.fromkeys(row.threats for row in results.rows if row.threats and eps > 0)
    return "; ".join(united) or f"{eps:.4g}"


def _cell(number: Measurement | None) -> str:
    return accuracy_cell(number, number.n if number else None)


def _difference(before: Measurement | None, after: Measurement | None) -> list[str]:
    """The difference in points, and the number of images."""
    if before is None or after is None:
        return [MISSING, MISSING]
    return [points(after.accuracy - before.accuracy), f"{after.n:,}"]
