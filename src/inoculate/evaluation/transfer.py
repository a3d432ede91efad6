"""The job `transfer`: which model's adversarial examples fool which other model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from inoculate.artifacts.executors.base import Executor
from inoculate.artifacts.executors.find import find_executor
from inoculate.attacks.base import Attack
from inoculate.core.errors import InputError
from inoculate.core.options import require_one_of
from inoculate.core.progress import Progress
from inoculate.core.rng import seeded
from inoculate.core.row import Row
from inoculate.core.threat import Threat, require_threats
from inoculate.data.dataset import Dataset
from inoculate.data.load import DataLike
from inoculate.evaluation.budget import families
from inoculate.evaluation.engine import Settings, measure_clean, measure_transfer
from inoculate.evaluation.inputs import (
    Matching,
    Prepared,
    averaged,
    clean_warnings,
    nonfinite_warning,
    prepare_checked,
    resolve_attack,
    resolve_data,
    threat_warnings,
)
from inoculate.evaluation.passes import batch_within_memory, require_batch_size
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.result import TransferMatrix
from inoculate.evaluation.spread import spread_over
from inoculate.evaluation.targets import target_name
from inoculate.models.class_names import ClassNames
from inoculate.models.classes import Counted
from inoculate.models.classifier import Classifier, Precision
from inoculate.models.loading.load import ModelLike


@dataclass(frozen=True)
class TransferOptions:
    """Settings of `transfer` that are rarely changed.

    Args:
        precision: `fast` crafts on quicker copies of the models where their outputs equal the models', `exact` on the
            models themselves.
        name: the attack's name in the rows; by default its registry name, else its class's in lower case.
        arm: label in the rows.
        device: where model SPECs are loaded.
        store: as in `EvaluationOptions`.
        class_names: as in `EvaluationOptions`, of every model.
        classes: as in `EvaluationOptions`.
        sources: what examples are crafted on: names of models, or several joined by `+` (`a+b`) for the average of
            their logits; by default each model.
        executor: as in `EvaluationOptions`. Every worker has all the models.
    """

    precision: Precision = "fast"
    name: str | None = None
    arm: str = "standard"
    device: str = "cpu"
    store: str | os.PathLike[str] | None = None
    class_names: ClassNames | None = None
    classes: Counted = "all"
    sources: Sequence[str] | None = None
    executor: str | Executor = "local"

    def __post_init__(self) -> None:
        require_one_of(("fast", "exact"), precision=self.precision)
        require_one_of(("all", "subset"), classes=self.classes)
        find_executor(self.executor)

    @property
    def matching(self) -> Matching:
        """How outputs are matched with the classes of the data."""
        return Matching(self.class_names, self.classes)


def transfer(
    models: Mapping[str, ModelLike] | Sequence[str],
    data: DataLike,
    attack: str | Attack = "mifgsm",
    threats: Sequence[Threat] = (Threat(),),
    *,
    batch_size: int | None = None,
    seed: int = 0,
    options: TransferOptions = TransferOptions(),
    progress: Progress | None = None,
) -> TransferMatrix:
    """Measure every model on adversarial examples crafted on every model (or on `options.sources`), at each threat.

    Every image is attacked once per source and threat, whether or not the source classifies it correctly: what is of no
    use against the source may still fool another model. A clean error of the evaluated model is an error.

    Args:
        models: from names to models (as for `evaluate`), or a list of model SPECs.
        data: as for `evaluate`.
        attack: a name or an attack object.
        threats: norms and sizes.
        batch_size: images at a time, by default as in `evaluate`.
        seed: of every random draw.
        options: everything else.
        progress: called as `(source, images done, all images)`.

    Returns:
        Rows in the order of clean accuracies, then crafted on × evaluated on × threat. `seconds` of a white-box row
        include the crafting, those of the others are for the evaluation alone.

    Raises `InputError` for no models, for images or labels that a model cannot take, and for an attack that leaves the
    threat model.
    """
    require_batch_size(batch_size)
    named = _by_name(models)
    name, chosen = resolve_attack(attack)
    images = resolve_data(data, next(iter(named.values())))
    warnings = threat_warnings(require_threats(threats), images)
    checked = _prepare(named, images, options, seed)
    prepared = {key: each.classifier for key, each in checked.items()}
    sources = _sources(prepared, images, options, seed)
    alone = Settings(min(batch_within_memory(each, images, batch_size) for each in prepared.values()), seed)
    involved = [*prepared.values(), *sources.values()]
    with spread_over(options.executor, options.store, involved, images, alone) as settings:
        clean = {target: _measure_clean(classifier, images, settings) for target, classifier in prepared.items()}
        crafted = {}
        for source, crafting in sources.items():
            own = replace(settings, progress=progress and partial(progress, source))
            crafted[source] = _measure_source(source, crafting, prepared, images, chosen, threats, own)
    for key, each in checked.items():
        warnings += [*each.warnings, *nonfinite_warning(clean[key], key), *clean_warnings(clean[key], images, key)]
    labels = {"dataset": images.name, "arm": options.arm, "seed": seed}
    measured = _clean_rows(clean, threats[0].norm if threats else "linf", labels)
    labels |= {"attack": options.name or name, "target": target_name(chosen)}
    for source, results in crafted.items():
        measured |= _rows(source, results, clean, threats, labels)
    return TransferMatrix(list(measured), tuple(prepared), measured, warnings, images.notes)


def _clean_rows(
    clean: Mapping[str, PerSampleResult], norm: str, labels: Mapping[str, Any]
) -> dict[Row, PerSampleResult]:
    """The rows of every model on the images as they are, and their results."""
    return {
        result.row(**labels, model=target, attack="none", norm=norm, protocol="white-box"): result
        for target, result in clean.items()
    }


def _rows(
    source: str,
    results: Mapping[str, Sequence[PerSampleResult]],
    clean: Mapping[str, PerSampleResult],
    threats: Sequence[Threat],
    labels: Mapping[str, Any],
) -> dict[Row, PerSampleResult]:
    """The rows of every model on the examples of `source`, and their results."""
    found = {}
    for target in clean:
        protocol = "white-box" if target == source else f"transfer:{source}/{labels['arm']}"
        for threat, result in zip(threats, results[target], strict=True):
            counted = _counted(result, clean[target], labels["attack"])
            found[counted.row_at(threat, **labels, model=target, protocol=protocol)] = counted
    return found


def _prepare(
    models: Mapping[str, ModelLike], images: Dataset, options: TransferOptions, seed: int
) -> dict[str, Prepared]:
    """The classifiers by name, and what looks wrong with each."""
    return {
        name: prepare_checked(model, images, options.precision, options.device, seed, name, options.matching)
        for name, model in models.items()
    }


def _sources(
    models: Mapping[str, Classifier], images: Dataset, options: TransferOptions, seed: int
) -> dict[str, Classifier]:
    """What examples are crafted on, by name. Raises `InputError` for a model that is not there."""
    found: dict[str, Classifier] = {}
    for source in options.sources if options.sources is not None else models:
        parts = [source] if source in models else source.split("+")
        for part in parts:
            require_one_of(tuple(models), **{f"model of source {source}": part})
        if len(set(parts)) < len(parts):
            raise InputError(f"source {source} names a model twice: name each one once")
        found[source] = averaged([models[part] for part in parts], images, options.precision, seed)
    return found


def _by_name(models: Mapping[str, ModelLike] | Sequence[str]) -> dict[str, ModelLike]:
    """The models by name. Raises `InputError` for none, and for one that is given twice."""
    if not models:
        raise InputError("no models to compare: give at least one")
    if isinstance(models, Mapping):
        return dict(models)
    if isinstance(models, str):
        raise InputError(f"models '{models}' is a single SPEC: give a list, ['{models}']")
    if twice := [model for place, model in enumerate(models) if model in models[:place]]:
        raise InputError(f"model {twice[0]} is given twice: name each model once")
    return {str(model): model for model in models}


def _measure_clean(classifier: Classifier, data: Dataset, settings: Settings) -> PerSampleResult:
    with seeded(settings.seed, "clean"):
        return measure_clean(classifier, data, settings)


def _measure_source(
    source: str,
    crafting: Classifier,
    classifiers: Mapping[str, Classifier],
    data: Dataset,
    attack: Attack,
    threats: Sequence[Threat],
    settings: Settings,
) -> dict[str, list[PerSampleResult]]:
    """Results of every classifier, one per threat in order, on examples crafted on `crafting`, called `source`."""
    order = sorted(classifiers, key=lambda name: name != source)  # the first bears the time of the crafting
    targets = [classifiers[name] for name in order]
    found: dict[tuple[str, Threat], PerSampleResult] = {}
    for family in families(threats):
        with seeded(settings.seed, "attack", source):
            results = measure_transfer(crafting, targets, data, attack, family, settings)
        found |= {
            (name, threat): result
            for name, of_one in zip(order, results, strict=True)
            for threat, result in zip(family, of_one, strict=True)
        }
    return {name: [found[name, threat] for threat in threats] for name in order}


def _counted(result: PerSampleResult, clean: PerSampleResult, attack: str) -> PerSampleResult:
    """The result with clean errors as errors, and the attack's name where it broke an image."""
    broken = torch.where(clean.right & ~result.right, 0, -1)
    aim = None if result.target is None else torch.where(clean.right, result.target, -1)
    return replace(result, right=result.right & clean.right, names=(attack,), broken_by=broken, target=aim)
