"""The jobs `evaluate` and `minimal_eps`: accuracy of a classifier, clean and under attack."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby

from inoculate.artifacts.executors.base import Executor
from inoculate.artifacts.executors.find import find_executor
from inoculate.attacks.base import Attack
from inoculate.certification.bounds.graph import Graph
from inoculate.certification.bounds.region import require_bounded_norm
from inoculate.core.duration import parse_duration
from inoculate.core.errors import InputError
from inoculate.core.groups import Groups, named_groups
from inoculate.core.options import require_bool, require_one_of
from inoculate.core.progress import Progress
from inoculate.core.rng import seeded
from inoculate.core.threat import Threat, largest_threat, require_threats
from inoculate.data.dataset import Dataset
from inoculate.data.load import DataLike
from inoculate.evaluation.agreement import (
    Measured,
    disagreement_warnings,
    early_termination_checks,
    known_results,
    unions_of,
)
from inoculate.evaluation.budget import TimeBudget, check_attacks, measure_attacks, named_attacks
from inoculate.evaluation.checks import run_checks
from inoculate.evaluation.engine import Settings, measure_clean
from inoculate.evaluation.inputs import (
    Attacks,
    Matching,
    averaged,
    clean_warnings,
    name_of_model,
    nonfinite_warning,
    prepare_checked,
    resolve_attacks,
    resolve_data,
    threat_warnings,
)
from inoculate.evaluation.natural import Natural
from inoculate.evaluation.passes import (
    CHECKS_SHARE,
    allowed_passes,
    cost_of,
    counted,
    require_batch_size,
)
from inoculate.evaluation.proofs import Proofs, traced
from inoculate.evaluation.provenance import facts_of, provenance_of
from inoculate.evaluation.result import Evaluation
from inoculate.evaluation.sample import Known
from inoculate.evaluation.spread import spread_over
from inoculate.evaluation.termination import finish
from inoculate.evaluation.thumbnails import failing_first
from inoculate.models.class_names import ClassNames
from inoculate.models.classes import Counted
from inoculate.models.classifier import Classifier, Precision
from inoculate.models.loading.load import ModelLike


@dataclass(frozen=True)
class EvaluationOptions:
    """Settings of `evaluate` that are rarely changed.

    Args:
        precision: `fast` crafts on a quicker copy of the model where its outputs equal the model's, `exact` on the
            model itself. The results are the model's own in both.
        time_budget: seconds, or a text such as `5m`, after which the attacks end. Images are then taken in random
            order, and the `n` of a row counts those that were attacked to the end.
        checks: whether to check that the numbers can be trusted. The checks are not part of the time budget.
        surrogates: other models of the same images; their examples must not beat the white-box ones, and of several
            surrogates neither those of the average of their logits.
        keep_images: whether to keep the adversarial images.
        name: of the model in the rows; by default its SPEC, else `model`.
        arm: label in the rows.
        device: where a model SPEC is loaded.
        store: folder that keeps what was measured of each image, batch by batch. The same call goes on where an earlier
            one stopped, and further images or attacks are all that it measures. None keeps nothing.
        class_names: what the model's outputs are called: a list, a mapping from index to name, or a file of either. The
            outputs are then matched with the classes of the data by name (see `match_classes`).
        classes: of a model with more outputs than the data have classes, whether a prediction is the largest of `all`
            its outputs or of the `subset` that the data have.
        executor: where batches are attacked. `local`: one after the other, here. `processes:N`: in N processes on this
            machine, among which its processors are divided. `ray` or `ray:ADDRESS`: on a Ray cluster. The model and the
            batches are sent to the workers. The rows are the same up to rounding; their `seconds` are those of all
            workers together. The checks are made here.
        certified: threats (L∞, L2, L1) at which it is also proven which images no attack can break, as `certify` does
            with its method `auto`: a row `certified` for each. A time budget holds for these proofs once more.
        groups: of the images, by the name of a column one value an image, such as {"site": ["A", "B", …]}: the result
            tells the accuracy of each group, and the worst.
    """

    precision: Precision = "fast"
    time_budget: float | str | None = None
    checks: bool = True
    surrogates: Mapping[str, ModelLike] = field(default_factory=dict)
    keep_images: bool = False
    name: str | None = None
    arm: str = "standard"
    device: str = "cpu"
    store: str | os.PathLike[str] | None = None
    class_names: ClassNames | None = None
    classes: Counted = "all"
    executor: str | Executor = "local"
    certified: Sequence[Threat] = ()
    groups: Groups = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_one_of(("fast", "exact"), precision=self.precision)
        require_one_of(("all", "subset"), classes=self.classes)
        require_bool(checks=self.checks, keep_images=self.keep_images)
        find_executor(self.executor)
        for threat in require_threats(self.certified):
            require_bounded_norm(threat)
        if self.time_budget is not None:
            parse_duration(self.time_budget)

    def start_budget(self) -> TimeBudget | None:
        """The time budget, which begins now; None for no limit."""
        return None if self.time_budget is None else TimeBudget.start(parse_duration(self.time_budget))

    @property
    def matching(self) -> Matching:
        """How outputs are matched with the classes of the data."""
        return Matching(self.class_names, self.classes)


def evaluate(
    model: ModelLike,
    data: DataLike,
    attacks: Attacks = ("fgsm", "pgd"),
    threats: Sequence[Threat] = (Threat(),),
    *,
    batch_size: int | None = None,
    seed: int = 0,
    options: EvaluationOptions = EvaluationOptions(),
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a classifier on labelled images: clean, then under each attack at each threat.

    Attacks are white-box. Every image counts: one that is misclassified clean is an error under every attack. Threats
    in several norms also give each attack a row with norm `union`: an image is right if it is so at all of them.

    Args:
        model: a module or function from float images in [0, 1] (B×C×H×W) to logits (B×K) or labels (B), or a SPEC.
        data: a `Dataset`, a pair (images, labels), a torch `Dataset` or `DataLoader`, or a data SPEC (its test part).
        attacks: names, attack objects, or a mapping from names to either.
        threats: norms and sizes.
        batch_size: images at a time, which only rounding depends on; by default at most 256 in 1 GiB (8 on a GPU).
        seed: of every random draw.
        options: everything else.
        progress: called as `(what, done, all)`, in images; under a time budget in percent, for the checks in passes.

    Raises `InputError` for what the model cannot take, and for an attack that leaves the threat model.
    """
    require_batch_size(batch_size)
    named, threats, images = resolve_attacks(attacks), require_threats(threats), resolve_data(data, model)
    groups = named_groups(options.groups, len(images))
    warnings = threat_warnings(dict.fromkeys((*threats, *options.certified)), images)
    prepared = prepare_checked(model, images, options.precision, options.device, seed, matching=options.matching)
    classifier, images = prepared.classifier, prepared.data
    graph = _graph(classifier, images) if options.certified else None  # first, for it may have no bounds
    cost, checked = cost_of(classifier, images), largest_threat(threats) if options.checks and threats else None
    (surrogates, warned), budget = _surrogates(images, options, seed), options.start_budget()
    alone = Settings(batch_size or cost.largest_batch(classifier.device), seed, keep_images=options.keep_images)
    with spread_over(options.executor, options.store, [classifier], images, alone) as settings:
        with counted(classifier) as passes:
            measured = _measure(classifier, images, named, threats, settings, budget, progress)
        clean, before = measured[0].result, settings.journal.passes if settings.journal else 0
        warnings += [*warned, *prepared.warnings, *clean_warnings(clean, images), *nonfinite_warning(clean)]
        spare = allowed_passes(passes.made + before, cost, classifier.device)
        known = Known(clean, known_results(measured), CHECKS_SHARE * spare)
        own = replace(settings, progress=progress and partial(progress, "checks"))
        with counted(classifier, *surrogates.values()) as passes:
            checks = run_checks(classifier, images, named, checked, own, surrogates, known) if checked else []
        doubts = disagreement_warnings(measured, classifier.classes)
        if doubts or any(check.passed is False for check in checks):
            measured = _finish(classifier, images, measured, settings, budget)
    checks += early_termination_checks(measured) if checked else []
    labels = {"model": options.name or name_of_model(model), "arm": options.arm, "dataset": images.name, "seed": seed}
    results = {each.row(**labels): each.result for each in _with_unions(measured)}
    found = Evaluation(
        list(results), results, checks, [*warnings, *doubts, *_late(measured)], checked=checked, groups=groups,
        spare_passes=max(0, int(spare - passes.made)), thumbnails=failing_first(measured, images),
        provenance=provenance_of(classifier, images, named, threats, options.time_budget), **facts_of(images),
    )  # fmt: skip
    return _proven(found, graph, Natural(classifier, images, settings, clean, labels, []), options, progress)


def _graph(classifier: Classifier, data: Dataset) -> Graph:
    """What proofs are made of. Raises `InputError` for a network without bounds."""
    try:
        return traced(classifier, data)
    except InputError as error:
        raise InputError(f"{error} (inoculate certify --method smoothing), or require nothing certified") from error


def _proven(
    found: Evaluation, graph: Graph | None, natural: Natural, options: EvaluationOptions, progress: Progress | None
) -> Evaluation:
    """The evaluation with the proofs that are asked for; without a graph, none are."""
    if graph is None:
        return found
    own = replace(natural.settings, spread=None)
    natural = replace(natural, settings=own, labels={**natural.labels, "protocol": "white-box"})
    with natural.spread(options) as spread:
        proofs = Proofs(spread, graph, "auto", own.batch_size, progress)
        return proofs.added_to(found, tuple(options.certified), options.start_budget())


def _with_unions(measured: Sequence[Measured]) -> list[Measured]:
    """What was finished at least in part, the unions of norms at the end."""
    return [each for each in [*measured, *unions_of(measured)] if bool(each.result.finished.any())]


def _late(measured: Sequence[Measured]) -> list[str]:
    """A warning for each attack of which no image was finished at some threat."""
    late = dict.fromkeys(each.name for each in measured if not bool(each.result.finished.any()))
    return [f"{name}: no image was finished within the time budget: give more time" for name in late]


def _surrogates(data: Dataset, options: EvaluationOptions, seed: int) -> tuple[dict[str, Classifier], list[str]]:
    """The surrogates of the checks, prepared, and warnings about them."""
    found: dict[str, Classifier] = {}
    warnings: list[str] = []
    for name, model in options.surrogates.items():
        label = f"surrogate {name}"
        matching = Matching(classes=options.classes)
        prepared = prepare_checked(model, data, options.precision, options.device, seed, label, matching)
        found[name] = prepared.classifier
        warnings += prepared.warnings
    if len(found) > 1:
        found["+".join(found)] = averaged(list(found.values()), data, options.precision, seed)
    return found, warnings


def _measure(
    classifier: Classifier,
    data: Dataset,
    attacks: Mapping[str, Attack],
    threats: Sequence[Threat],
    settings: Settings,
    budget: TimeBudget | None,
    progress: Progress | None,
) -> list[Measured]:
    """The results on clean images, then of each attack at each threat."""
    observe = None if progress is None else partial(progress, "clean")
    with seeded(settings.seed, "clean"):
        clean = measure_clean(classifier, data, replace(settings, progress=observe))
    named = named_attacks(attacks, threats)
    if len(attacks) > 1:
        check_attacks(classifier, data, named)
    measured = [Measured("none", None, Threat(threats[0].norm if threats else "linf", 0.0), clean)]
    found = measure_attacks(classifier, data, named, clean, settings, budget, progress)
    for each, results in zip(named, found, strict=True):
        measured += [Measured(each.name, each.attack, *pair) for pair in zip(each.threats, results, strict=True)]
    return measured


def _finish(
    classifier: Classifier,
    data: Dataset,
    measured: Sequence[Measured],
    settings: Settings,
    budget: TimeBudget | None,
) -> list[Measured]:
    """The results once every run that was ended early has its full budget, for which there is a cause to distrust it.

    A time budget ends this too.
    """
    settings = replace(settings, deadline=None if budget is None else budget.deadline)
    found: list[Measured] = []
    for (name, _), group in groupby(measured, key=lambda each: (each.name, replace(each.threat, eps=0.0))):
        family = list(group)
        results, attack = [each.result for each in family], family[0].attack
        if attack is not None:
            with seeded(settings.seed, name, "full budget"):
                results = finish(classifier, data, attack, [each.threat for each in family], results, settings)
        found += [replace(each, result=result) for each, result in zip(family, results, strict=True)]
    return found
