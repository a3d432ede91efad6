"""The first screen of a page: what was measured, the picture, the answers, and the verdict of the checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from inoculate.core.groups import GroupAccuracy, accuracy_by
from inoculate.core.results import hardest
from inoculate.core.row import CERTIFIED, Row
from inoculate.report import published
from inoculate.report.answers import (
    Answer,
    Badge,
    Doubt,
    against_what,
    badge_of,
    better_than_before,
    can_i_believe_it,
    is_it_robust,
    unchecked,
    which_fail_first,
)
from inoculate.report.comparison import are_they_robust, same_images, which_to_ship
from inoculate.report.failures import Failure, explained_failures, failures
from inoculate.report.first_to_fail import FirstToFail, first_to_fail, which_classes_fail_first
from inoculate.report.formatting import attack_name, norm_name, percent, span, with_norm_names
from inoculate.report.image_record import accuracy_by_class
from inoculate.report.ladder import Ladder, Side, ladder_of
from inoculate.report.plots.style import legend
from inoculate.report.results import BEFORE, Results
from inoculate.report.run import RunRecord
from inoculate.report.several_answers import (
    best_networks,
    robust_by_training,
    same_when_deployed,
    weakest_side,
)

MOST_CLASSES = 12


@dataclass(frozen=True, eq=False)
class Subgroup:
    """Accuracy by class, or by a column of the data, of one network under one attack; the worst group first."""

    network: str
    condition: str
    classes: Sequence[GroupAccuracy]
    by: str = "class"


@dataclass(frozen=True, eq=False)
class FirstFailures:
    """The images of one network that fail first; `owner` is the network or the dataset, where there are several."""

    title: str
    owner: str
    images: Sequence[Failure]


@dataclass(frozen=True, eq=False)
class Picture:
    """The ladder of one dataset and norm, with the finding below it, and the trainings that it leaves out."""

    title: str
    ladder: Ladder
    lead: str
    not_drawn: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Overview:
    """Everything above the sections of single datasets."""

    kind: str
    title: str
    measured: Sequence[str]
    badge: Badge | None
    answers: Sequence[Answer]
    pictures: Sequence[Picture]
    failures: Sequence[FirstFailures]
    subgroups: Sequence[Subgroup]
    warnings: Sequence[str]

    @property
    def not_drawn(self) -> Sequence[str]:
        """The trainings that no picture shows: they are in the sections below."""
        return tuple(dict.fromkeys(label for picture in self.pictures for label in picture.not_drawn))

    @property
    def shared_sides(self) -> Sequence[Side]:
        """The sides of every picture, where there are several pictures and all have the same; else none."""
        sides = [picture.ladder.sides for picture in self.pictures]
        same = len({tuple(side.label for side in each) for each in sides}) == 1
        return sides[0] if len(sides) > 1 and same and len(sides[0]) > 1 else ()


def overview_of(run: RunRecord, found: Sequence[tuple[Results, str]]) -> Overview:
    """The overview of a run; `found` holds the results with the finding on each."""
    measured = [each for each in found if each[0].rows]
    brief = len({results.dataset for results, _ in measured}) > 1
    pictures = [
        Picture(results.title, ladder, lead if run.is_study else "", _not_drawn(results, ladder))
        for results, lead in measured
        if (ladder := ladder_of(results, brief or run.is_study)).rungs
    ]
    checks, warnings = _checks(run), _warnings(run)
    badge = badge_of(checks, len(warnings)) if measured else None
    in_study = _of_study(run, [results for results, _ in measured])
    shown = _failures(run, [results for results, _ in found], in_study)
    groups = _subgroups(run, [results for results, _ in measured], in_study)
    answers: list[Answer] = []
    if pictures and badge:
        answers = _answers(run, [results for results, _ in measured], pictures, badge, shown, groups, in_study)
    return Overview(
        kind="study" if run.is_study else "comparison" if run.members else "model", title=_title(run, measured),
        measured=_measured(run, [results for results, _ in measured]), badge=badge, answers=answers,
        pictures=pictures, failures=shown, subgroups=groups, warnings=warnings,
    )  # fmt: skip


def _not_drawn(results: Results, ladder: Ladder) -> list[str]:
    """The trainings of the results that no side of the ladder shows."""
    drawn = {arm for side in ladder.sides for _, arm in side.networks}
    return [entry.label for entry in legend(results.arms) if entry.arm not in drawn]


def _title(run: RunRecord, measured: Sequence[tuple[Results, str]]) -> str:
    if run.is_study:
        datasets = ", ".join(dict.fromkeys(published.title(results.dataset) for results, _ in measured))
        return f"Study “{run.title}”" + (f" on {datasets}" if datasets else "")
    if not measured:
        return run.title
    models = list(dict.fromkeys(model for results, _ in measured for model in results.models))
    datasets = ", ".join(dict.fromkeys(published.title(results.dataset) for results, _ in measured))
    how = ", as it will be deployed" if run.variants else ""
    how = ", before and after hardening" if BEFORE in measured[0][0].arms else how
    joined = " or ".join(models) + "?" if run.members else ", ".join(f"“{model}”" for model in models)
    return f"{joined} {'Robustness' if run.members else ''} on {datasets}{how}".replace("  ", " ")


def _measured(run: RunRecord, found: Sequence[Results]) -> list[str]:
    """What was measured, in short parts."""
    if not found:
        return []
    models = list(dict.fromkeys(model for results in found for model in results.models))
    rows = [row for results in found for row in results.rows]
    arms = len({row.arm for row in rows})
    attacks = list(dict.fromkeys(attack_name(a) for results in found for a in results.attacks))
    epsilons = sorted({row.eps for row in rows if row.eps})
    parts = [f"{len(models)} networks: {', '.join(models)}"] if len(models) > 1 else []
    parts += [f"network {models[0]}"] if len(models) == 1 and run.is_study else []  # else the title names it
    if run.variants:
        parts += [f"{len(run.variants)} variants: {', '.join(run.variants)}"]
    elif arms > 1 and BEFORE not in {row.arm for row in rows}:
        parts += [f"{arms} ways of training"]
    parts += [_count(rows) + (" of each data set" if len({row.dataset for row in rows}) > 1 else "")]
    norms = ", ".join(dict.fromkeys(norm_name(results.norm) for results in found))
    words = {0: "without a bound", 1: "eps "}.get(len(epsilons), "eps up to ")
    sizes = words + "".join(f"{eps:.3g}" for eps in epsilons[-1:])
    parts += [f"{', '.join(attacks)} in {norms}, {sizes}"] if attacks else ["no attack"]
    return parts


def _count(rows: Sequence[Row]) -> str:
    """How many images were tested, without an attack where that was measured."""
    return f"{span({row.n for row in rows if row.attack == 'none'} or {row.n for row in rows})} test images"


def _checks(run: RunRecord) -> list[Mapping[str, Any]]:
    named = [(member.title, member.checks) for member in run.members] or [("", run.checks)]
    return [
        {**check, "name": f"{name}: {check['name']}" if name else check["name"]}
        for name, checks in named
        for check in (checks or {}).get("checks", ())
    ]


def _warnings(run: RunRecord) -> list[str]:
    named = [(f"{member.title}: ", member.warnings) for member in run.members] or [("", run.warnings)]
    return [f"{name}{with_norm_names(warning)}" for name, warnings in named for warning in warnings]


def _failures(run: RunRecord, found: Sequence[Results], in_study: Sequence[FirstToFail]) -> list[FirstFailures]:
    """Of a recorded run its thumbnails; else the images that were explained, of the first network of each dataset."""
    shown: list[FirstFailures] = []
    for results in found:
        for member in run.members or [run]:
            images = _weakest_classes_first(_failures_of(member, results), results.title, in_study)
            if images:
                owner = member.title if run.members else results.title if len(found) > 1 else ""
                parts = [owner, *(_network_in_words(run, results) if run.is_study else [])]
                shown.append(FirstFailures(", ".join(filter(None, parts)), owner, images))
    return shown


def _network_in_words(run: RunRecord, results: Results) -> list[str]:
    """The first network of a study and its training, where there are several."""
    model, arm = _networks(run, results)[0]
    label = legend([arm])[0].label if len(results.arms) > 1 else ""
    return [each for each in (model if len(results.models) > 1 else "", label) if each]


def _failures_of(run: RunRecord, results: Results) -> list[Failure]:
    networks = [key for key in _networks(run, results) if key[1] != BEFORE]
    if run.images is not None and run.images.thumbnails and networks:
        return failures(results, networks[0], run.image_rows, run.images)
    for explained in run.explanations:
        here = explained.key[0] == results.dataset and explained.space == results.norm
        if here and explained.key[1:] in (networks[:1] or [explained.key[1:]]):
            return explained_failures(results, explained, run.records)
    return failures(results, networks[0], run.image_rows, run.images) if run.images is not None and networks else []


def _networks(run: RunRecord, results: Results) -> list[tuple[str, str]]:
    return [
        (model, arm) for model in results.models for arm in results.arms
        if any((row.model, row.arm) == (model, arm) and row.dataset == results.dataset for row in run.rows)
    ]  # fmt: skip


def _subgroups(run: RunRecord, found: Sequence[Results], in_study: Sequence[FirstToFail]) -> list[Subgroup]:
    """By class, for every network with recorded images, under its strongest attack at an eps that tells them apart."""
    groups = [Subgroup(each.title, each.condition, each.classes) for each in in_study if each.classes]
    for results in found:
        strongest = [(member, _strongest(member, results)) for member in run.members or [run]]
        strongest = [(member, by_eps) for member, by_eps in strongest if by_eps]
        shared = _telling([by_eps for _, by_eps in strongest])
        for member, by_eps in strongest:
            row = by_eps[max(by_eps) if shared is None else shared]
            place, images = member.image_rows.index(row), member.images
            assert images is not None  # else it has no recorded rows
            name, condition = member.title if run.members else "", f"{attack_name(row.attack)} at eps {row.eps:.3g}"
            groups.append(Subgroup(name, condition, accuracy_by_class(images, place)))
            for column, values in images.groups.items():
                by_column = accuracy_by(values, images.right[place], images.finished[place])
                groups.append(Subgroup(name, condition, by_column, column))
    return groups


def _strongest(member: RunRecord, results: Results) -> dict[float, Row]:
    """At each eps the recorded white-box row of the results that leaves least; none without recorded images."""
    rows: dict[float, list[Row]] = {}
    for row in member.image_rows if member.images is not None else ():
        here = row.dataset == results.dataset and row.space == results.norm and row.arm != BEFORE
        if here and row.attack not in ("none", CERTIFIED) and row.protocol == "white-box":
            rows.setdefault(row.eps, []).append(row)
    return {eps: hardest(found) for eps, found in rows.items()}


def _telling(found: Sequence[Mapping[float, Row]]) -> float | None:
    """Of the eps that all have, the one that leaves closest to half of the images: it tells classes apart."""
    shared = set[float]().union(*found).intersection(*found)
    accuracy = {eps: fmean(each[eps].accuracy for each in found) for eps in shared}
    return min(shared, key=lambda eps: (abs(accuracy[eps] - 0.5), -eps), default=None)


def _answers(
    run: RunRecord, found: Sequence[Results], pictures: Sequence[Picture], badge: Badge,
    shown: Sequence[FirstFailures], groups: Sequence[Subgroup], in_study: Sequence[FirstToFail],
) -> list[Answer]:  # fmt: skip
    results, ladder = found[0], pictures[0].ladder
    images = _count(results.rows)
    if run.members:
        robust = which_to_ship(results, ladder, run.records, same_images(run.members))
    elif BEFORE in results.arms:
        robust = better_than_before(ladder)
    elif run.variants:
        robust = is_it_robust(weakest_side(ladder))
    elif run.is_study or len(ladder.sides) > 1:
        robust = robust_by_training([(picture.title, picture.ladder) for picture in pictures])
    else:
        robust = is_it_robust(ladder)
    trainings = {(row.dataset, row.model, row.arm, row.seed) for each in found for row in each.rows}
    checked = badge.state != "open"
    robust = robust if checked else unchecked(robust)
    seeds = list(Counter(training[:-1] for training in trainings).values())
    counts = [row.n for each in found for row in each.rows]
    believed = can_i_believe_it(badge, ladder, _warnings(run), counts, seeds, _doubt(run, found))
    by_class = [(group.network, group.condition, group.classes) for group in groups if group.by == "class"]
    if in_study:
        who = ", ".join(_network_in_words(run, found[0]))
        first: Answer | None = which_classes_fail_first(in_study, who, bool(shown))
    else:
        first = which_fail_first(by_class, [(each.owner, each.images) for each in shown])
    best = None
    if run.members:
        best = are_they_robust(ladder, checked)
    elif run.variants:
        best = same_when_deployed(ladder)
    elif len(results.models) > 1:
        best = best_networks(found)
    others = [best, against_what(found, images)] if run.members else [against_what(found, images), best]
    return [each for each in (robust, *others, first, believed) if each]


def _of_study(run: RunRecord, found: Sequence[Results]) -> list[FirstToFail]:
    """What fails first of the first network under each of the results, if a study wrote the run."""
    if not run.is_study or run.images is not None:
        return []
    each = (first_to_fail(run, results, _networks(run, results)[0]) for results in found)
    return [first for first in each if first]


def _weakest_classes_first(images: list[Failure], title: str, in_study: Sequence[FirstToFail]) -> list[Failure]:
    """The images of a dataset, those of one eps by what is left of their class in the study."""
    left = {group.name: group.accuracy for each in in_study if each.title == title for group in each.classes}
    return sorted(images, key=lambda each: (each.eps, left.get(each.label, 1.0)))


def _doubt(run: RunRecord, found: Sequence[Results]) -> Doubt | None:
    """Where the strongest attack on a network at an eps may have missed most by ending runs early."""
    met: dict[tuple[str, str, str, str, float], list[Row]] = {}
    for row in (row for results in found for row in results.rows if row.attack not in ("none", CERTIFIED)):
        met.setdefault((row.dataset, row.model, row.arm, row.space, row.eps), []).append(row)
    hidden = [(row.hidden, row) for row in map(hardest, met.values()) if row.hidden]
    if not hidden:
        return None
    most, row = max(hidden, key=lambda pair: pair[0])
    datasets, networks = {each[0] for each in met}, {each[1:3] for each in met}
    details = [row.model] if len(networks) > 1 else []
    details += [legend([row.arm])[0].label] if len({arm for _, arm in networks}) > 1 else []
    details += [published.title(row.dataset)] if len(datasets) > 1 else []
    details += [f"{percent(row.accuracy)} % at eps {row.eps:.3g}"]
    return Doubt(attack_name(row.attack), most, ", ".join(details))
