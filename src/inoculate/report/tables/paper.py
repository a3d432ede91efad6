"""The paper's tables, and the gain of every control, built from rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from inoculate.core.row import Row
from inoculate.report import published
from inoculate.report.between import BEST, between
from inoculate.report.formatting import MISSING, attack_name, percent, points
from inoculate.report.results import CLEAN, READINGS, Measurement, Results, View, collect
from inoculate.report.tables.table import Entry, Table, accuracy_cell, accuracy_column

_READ = "95 % Wilson intervals; every test image counts, a clean error is an error."
_NEVER_REPLAYED = ("white-box", "surrogate's")
_NUMBERED = ((2, "standard"), (3, "augmented"), (4, "transferred"))
_WHAT = {
    "standard": "accuracy on adversarial images before",
    "augmented": "accuracy on adversarial images after augmentation alone",
    "transferred": "accuracy on adversarial images after transfer training",
}


def paper_tables(rows: Iterable[Row], surrogate: Mapping[str, str] | None = None) -> list[Table]:
    """Return Tables 1–4 and the controls table of every dataset in `rows`, in percent.

    Any subset of a study's rows will do: what is not measured yet prints as `–`, a table without a number is left out.
    Several seeds: the mean over seeds, with the interval of their pooled counts.
    """
    tables: list[Table] = []
    for results in collect(rows, surrogate):
        tables.append(_clean_table(results))
        tables.extend(_attack_table(results, number, arm) for number, arm in _NUMBERED)
        tables.append(_controls_table(results))
    return [table for table in tables if table.entries]


def _head(results: Results) -> str:
    usual = results.norm == "linf"
    return published.title(results.dataset) + ("" if usual else f" ({results.norm})")


def _note(results: Results, *sentences: str) -> str:
    seeds = results.seeds
    listed = f"{'Seed' if len(seeds) == 1 else 'Seeds'} {', '.join(map(str, seeds))}."
    surrogate = f"Surrogate: {results.surrogate}." if results.surrogate else "No surrogate known."
    return " ".join([surrogate, listed, *sentences])


def _clean_table(results: Results) -> Table:
    entries: list[Entry] = []
    lines = []
    paper = any(published.clean(results.dataset, model) for model in results.models)
    for model in results.models:
        before, after = results.clean(model, "standard"), results.clean(model, "transferred")
        printed = published.clean(results.dataset, model)
        line = [model, *(accuracy_cell(number, number.n if number else None) for number in (before, after))]
        line.append(points(after.accuracy - before.accuracy) if before and after else MISSING)
        if paper:
            line += (
                [f"{printed[0]:.2f}", f"{printed[1]:.2f}", f"{printed[1] - printed[0]:+.2f}"]
                if printed
                else [MISSING] * 3
            )
        line += [_either(before, after, lambda number: f"{number.n:,}"), _either(before, after, _seeds)]
        lines.append(line)
        for place, (arm, number) in enumerate((("standard", before), ("transferred", after))):
            if number:
                given = printed[place] if printed else None
                entries.append(_entry(results, model, arm, CLEAN, number, given))
    columns = ["network", "before (standard)", "after (transferred)", "difference"]
    columns += ["paper before", "paper after", "paper difference"] if paper else []
    title = f"{_head(results)}, Table 1: clean accuracy before and after transfer training"
    return Table(title, _note(results, _READ), (*columns, "n", "seeds"), lines, tuple(entries))


def _either(before: Measurement | None, after: Measurement | None, text: Callable[[Measurement], str]) -> str:
    found = list(dict.fromkeys(text(number) for number in (before, after) if number))
    return " / ".join(found) or MISSING


def _seeds(number: Measurement) -> str:
    return ", ".join(map(str, number.seeds))


def _columns(results: Results, readings: Sequence[str]) -> list[View]:
    """The main attack under each reading, then every other attack white-box."""
    main, *others = results.conditions or ["fgsm"]
    return [View(main, reading) for reading in readings] + [View(other, "white-box") for other in others]


def _name(view: View) -> str:
    return f"{attack_name(view.attack)} {view.reading}"


def _own_eps(results: Results, attack: str) -> str:
    """The eps of an attack that does not cover all of the main one's, as a part of a header; else ''."""
    own, usual = results.epsilons(attack), results.epsilons((results.attacks or [attack])[0])
    return "" if own in ([], usual) else f" at eps {', '.join(f'{eps:.4g}' for eps in own)}"


def _lines(results: Results) -> list[tuple[str, float]]:
    epsilons = sorted({f"{eps:g}": eps for attack in results.conditions for eps in results.epsilons(attack)}.values())
    return [(model, eps) for model in results.models for eps in epsilons]


def _attack_table(results: Results, number: int, arm: str) -> Table:
    columns = _columns(results, _NEVER_REPLAYED if arm == "standard" else READINGS)
    places = _lines(results)
    body = [[model for model, _ in places] + ["mean"], [f"{eps:.4g}" for _, eps in places] + [""]]
    headers = ["network", "eps"]
    entries: list[Entry] = []
    for view in columns:
        numbers = [results.find(model, arm, view.attack, eps, view.reading) for model, eps in places]
        wanted = len(results.models) * len(results.epsilons(view.attack))
        header, cells = accuracy_column(_name(view), numbers)
        headers.append(header)
        body.append([*cells, _mean(numbers, wanted)])
        entries += [
            _entry(results, model, arm, view, found) for (model, _), found in zip(places, numbers, strict=True) if found
        ]
        if wanted == sum(found is not None for found in numbers):
            entries += _mean_entry(results, "mean", arm, view, numbers)
    bounds = [between(results, model, arm, eps) for model, eps in places]
    if any(bounds):
        headers.append(BEST)
        body.append([each.words if each else MISSING for each in bounds] + [""])
    lines = [list(line) for line in zip(*body, strict=True)]
    if arm != "standard":
        gains = [_gain(results, arm, places, view) for view in columns] + [""] * any(bounds)
        lines.append(["gain over standard", "", *gains])
    printed = _published_column(results, arm, lines)
    title = f"{_head(results)}, Table {number}: {_WHAT[arm]} ({arm})"
    return Table(title, _note(results, _READ), tuple(headers + printed), lines, tuple(entries))


def _published_column(results: Results, arm: str, lines: list[list[str]]) -> list[str]:
    """Append the paper's mean (standard) or gain (transferred) to its line; return the column's header."""
    if arm == "standard":
        value, label, text = published.adversarial_before(results.dataset), "mean", "{:.2f}"
    elif arm == "transferred":
        value, label, text = published.gain(results.dataset), "gain over standard", "{:+.2f}"
    else:
        return []
    if value is None:
        return []
    for line in lines:
        line.append(text.format(value) if line[0] == label else "")
    return ["paper"]


def _mean(numbers: Sequence[Measurement | None], wanted: int) -> str:
    return _averaged([number.accuracy for number in numbers if number], wanted, percent)


def _gain(results: Results, arm: str, places: Sequence[tuple[str, float]], view: View) -> str:
    attack, reading = view
    pairs = [
        (results.find(model, "standard", attack, eps, reading), results.find(model, arm, attack, eps, reading))
        for model, eps in places
    ]
    gains = [after.accuracy - before.accuracy for before, after in pairs if before and after]
    wanted = len(results.models) * len(results.epsilons(attack))
    return _averaged(gains, wanted, points)


def _averaged(found: Sequence[float], wanted: int, text: Callable[[float], str]) -> str:
    """The mean of what was found as text, and of how many it is if more were wanted."""
    if not found:
        return MISSING
    partial = "" if len(found) >= wanted else f" ({len(found)} of {wanted})"
    return text(sum(found) / len(found)) + partial


def _controls_table(results: Results) -> Table:
    """Mean accuracy over eps of every arm: what duplicates and noise do without any adversarial example."""
    columns = _columns(results, READINGS)
    lines: list[list[str]] = []
    entries: list[Entry] = []
    for model in [*results.models, "mean"]:
        models = results.models if model == "mean" else [model]
        for arm in results.arms:
            clean = [results.clean(name, arm) for name in models]
            line = [model, arm, _mean(clean, len(models))]
            for view in columns:
                places = [(name, eps) for name in models for eps in results.epsilons(view.attack)]
                numbers = [results.find(name, arm, view.attack, eps, view.reading) for name, eps in places]
                line.append(_mean(numbers, len(places)))
                if all(numbers):
                    entries += _mean_entry(results, model, arm, view, numbers)
            if any(cell != MISSING for cell in line[2:]):
                lines.append(line)
    note = _note(
        results,
        "Means over eps. duplicates: clean copies with the same sample count; noise: random ±eps instead of an attack.",
        "What transferred adds over these is the method's own share.",
    )
    headers = ("network", "arm", "clean", *(_name(view) + _own_eps(results, view.attack) for view in columns))
    return Table(f"{_head(results)}: where the gain comes from", note, headers, lines, tuple(entries))


def _entry(
    results: Results, model: str, arm: str, view: View, number: Measurement, printed: float | None = None
) -> Entry:
    eps = f"{number.rows[0].eps:.6g}"
    place = (results.dataset, model, arm, view.attack, results.norm, eps, view.reading)
    return Entry(*place, number.accuracy, number, printed)


def _mean_entry(
    results: Results, model: str, arm: str, view: View, numbers: Sequence[Measurement | None]
) -> list[Entry]:
    found = [number.accuracy for number in numbers if number]
    if not found:
        return []
    printed = published.adversarial_before(results.dataset) if (arm, model) == ("standard", "mean") else None
    printed = printed if view == ("fgsm", "white-box") else None
    place = (results.dataset, model, arm, view.attack, results.norm, "mean", view.reading)
    return [Entry(*place, sum(found) / len(found), None, printed)]
