"""Craft adversarial examples on a standard network."""

from __future__ import annotations

from pathlib import Path

from inoculate.attacks.craft import craft
from inoculate.attacks.registry import get_attack
from inoculate.core.threat import Threat
from inoculate.models.acceleration.fast import fast
from inoculate.study.cell import Cell
from inoculate.study.inputs import Inputs
from inoculate.study.steps.context import Context


def make_examples(folder: Path, cell: Cell, context: Context, inputs: Inputs[Path]) -> None:
    """Attack the cell's part of the data, once for every eps, and write the `AdvSet`."""
    study, config = context.study, context.study.attacks[cell.attack]
    network = context.networks.load(inputs.networks[0])
    examples = craft(
        get_attack(config.attack, **config.options),
        fast(network) if study.evaluation.precision == "fast" else network,
        context.data.train if cell.part == "train" else context.tested,
        Threat(study.norm, max(study.eps)),
        batch_size=study.evaluation.batch_size,
        seed=context.seed,
        progress=context.report,
    )
    examples.save(folder)
