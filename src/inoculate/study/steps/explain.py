"""Explain a trained network before and after an attack."""

from __future__ import annotations

from pathlib import Path

from inoculate.attacks.registry import get_attack
from inoculate.attribution.explain import ExplainOptions, choose_images, explain
from inoculate.core.threat import Threat
from inoculate.study.cell import Cell
from inoculate.study.inputs import Inputs
from inoculate.study.steps.context import Context
from inoculate.study.steps.evaluate import correct_images


def make_explanation(folder: Path, cell: Cell, context: Context, inputs: Inputs[Path]) -> None:
    """Explain the cell's network on images that its standard version classifies correctly."""
    study = context.study
    assert study.explanations is not None  # otherwise nothing is planned
    assert inputs.clean is not None
    amounts, config = study.explanations.amounts, study.attacks[cell.attack]
    network, standard = inputs.networks
    right = correct_images(inputs.clean)
    data = context.data.test.subset(range(len(right)))
    options = ExplainOptions(
        seed=context.seed,
        batch_size=study.evaluation.batch_size,
        name=cell.model,
        arm=cell.arm,
        attack_name=cell.attack,
        shown=choose_images(data, right, amounts.images),
    )
    explanation = explain(
        context.networks.load(network),
        data,
        get_attack(config.attack, **config.options),
        Threat(study.norm, max(study.eps)),
        amounts=amounts,
        before=None if cell.arm == "standard" else context.networks.load(standard),
        options=options,
        progress=context.report,
    )
    explanation.save(folder)
