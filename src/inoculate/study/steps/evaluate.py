"""Measure a trained network: clean, under an attack, or on stored examples."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inoculate.artifacts.files import write_json
from inoculate.attacks.craft import AdvSet
from inoculate.attacks.registry import get_attack
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import Settings, measure_clean, measure_examples
from inoculate.evaluation.journal import Journal
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.termination import measure_audited
from inoculate.models.classifier import Classifier, prepare
from inoculate.study.cell import MEASURED, RIGHT, Cell
from inoculate.study.inputs import Inputs
from inoculate.study.steps.context import Context

UNFINISHED = "unfinished"


def make_evaluation(folder: Path, cell: Cell, context: Context, inputs: Inputs[Path]) -> None:
    """Measure the cell's network and write which images it classifies correctly, at each eps."""
    network, evaluation = context.networks.load(inputs.networks[0]), context.study.evaluation
    settings = Settings(evaluation.batch_size, context.seed, progress=context.count)
    if inputs.clean is None:
        classifier = prepare(network, context.tested, precision="exact")
        _save(folder, [measure_clean(classifier, context.tested, settings)])
        return
    right = correct_images(inputs.clean)
    right = right[: context.study.attacks[cell.attack].images or len(right)]
    data = context.data.test.subset(range(len(right)))
    if inputs.examples is None:
        classifier = prepare(network, data, precision=evaluation.precision)
        journal = Journal(folder / UNFINISHED)
        _save(folder, attack_results(context, cell.attack, classifier, data, right, journal))
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
        return
    classifier, examples = prepare(network, data, precision="exact"), AdvSet.load(inputs.examples)
    epsilons = context.study.eps_for(cell.attack)
    _save(folder, measure_examples(classifier, data, examples, epsilons, right, settings))


def attack_results(
    context: Context,
    attack: str,
    classifier: Classifier,
    data: Dataset,
    right: Tensor,
    journal: Journal | None = None,
) -> list[PerSampleResult]:
    """White-box results of an attack of the study, one per eps, on the images that are `right` (N, bool) when clean."""
    study, config = context.study, context.study.attacks[attack]
    margin = 0.0 if config.clip else max(study.eps_for(attack))  # one range for every eps
    threats = [Threat(study.norm, eps, low=-margin, high=1 + margin) for eps in study.eps_for(attack)]
    settings = Settings(study.evaluation.batch_size, context.seed, progress=context.count, journal=journal)
    return measure_audited(classifier, data, get_attack(config.attack, **config.options), threats, right, settings)


def correct_images(folder: Path) -> Tensor:
    """Which images (N, bool) the network of a clean evaluation classifies correctly."""
    return torch.from_numpy(np.load(folder / RIGHT, allow_pickle=False)[0])


def _save(folder: Path, results: Sequence[PerSampleResult]) -> None:
    np.save(folder / RIGHT, torch.stack([result.right for result in results]).numpy(), allow_pickle=False)
    write_json(folder / MEASURED, [{"eps": each.eps, "seconds": each.seconds, **each.audit_fields} for each in results])
