"""Measure a trained network: clean, under an attack, or on stored examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from inoculate.artifacts.files import write_json
from inoculate.attacks.craft import AdvSet
from inoculate.attacks.registry import get_attack
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import judge_attack, judge_clean, judge_replay
from inoculate.evaluation.per_sample import Verdict
from inoculate.study.cell import Cell
from inoculate.study.inputs import Inputs
from inoculate.study.steps.context import Context

RIGHT, MEASURED = "right.npy", "measured.json"


def make_evaluation(folder: Path, cell: Cell, context: Context, inputs: Inputs[Path]) -> None:
    """Measure the cell's network and write which images it classifies correctly, at each eps."""
    network = context.networks.load(inputs.networks[0])
    batch_size = context.study.evaluation.batch_size
    if inputs.clean is None:
        _save(folder, [judge_clean(network, context.tested, batch_size, context.count)])
        return
    right = correct_images(inputs.clean)
    right = right[: context.study.attacks[cell.attack].images or len(right)]
    data = context.data.test.subset(range(len(right)))
    if inputs.examples is None:
        _save(folder, attack_results(context, cell.attack, network, data, right))
        return
    examples, epsilons = AdvSet.load(inputs.examples), context.study.eps_for(cell.attack)
    _save(
        folder,
        judge_replay(network, data, examples, epsilons, right, batch_size=batch_size, progress=context.count),
    )


def attack_results(context: Context, attack: str, network: nn.Module, data: Dataset, right: Tensor) -> list[Verdict]:
    """White-box results of an attack of the study, one per eps, on the images that are `right` (N, bool) when clean."""
    study, config = context.study, context.study.attacks[attack]
    return judge_attack(
        network,
        data,
        get_attack(config.attack, **config.options),
        Threat(study.norm, max(study.eps)),
        study.eps_for(attack),
        right,
        batch_size=study.evaluation.batch_size,
        seed=context.seed,
        precision=study.evaluation.precision,
        progress=context.count,
    )


def correct_images(folder: Path) -> Tensor:
    """Which images (N, bool) the network of a clean evaluation classifies correctly."""
    return torch.from_numpy(np.load(folder / RIGHT, allow_pickle=False)[0])


def _save(folder: Path, results: Sequence[Verdict]) -> None:
    np.save(folder / RIGHT, torch.stack([result.right for result in results]).numpy(), allow_pickle=False)
    write_json(folder / MEASURED, [{"eps": result.eps, "seconds": result.seconds} for result in results])
