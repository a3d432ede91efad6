"""Choose the network whose examples are transferred."""

from __future__ import annotations

from pathlib import Path

from inoculate.artifacts.files import write_json
from inoculate.evaluation.engine import Settings, measure_clean
from inoculate.models.classifier import prepare
from inoculate.study.cell import CHOICE, Cell
from inoculate.study.inputs import Inputs
from inoculate.study.steps.context import Context
from inoculate.study.steps.evaluate import attack_results


def make_choice(folder: Path, cell: Cell, context: Context, inputs: Inputs[Path]) -> None:
    """Choose the most vulnerable standard network: lowest mean adversarial accuracy on validation (never on test)."""
    evaluation = context.study.evaluation
    val = context.data.val.limit(evaluation.limit(len(context.data.val)), seed=context.seed)
    accuracy: dict[str, float] = {}
    for model, path in zip(context.study.models, inputs.networks, strict=True):
        classifier = prepare(context.networks.load(path), val, precision=evaluation.precision)
        right = measure_clean(classifier, val, Settings(evaluation.batch_size)).right
        results = attack_results(context, cell.attack, classifier, val, right)
        accuracy[model] = sum(result.right.float().mean().item() for result in results) / len(results)
    write_json(folder / CHOICE, {"surrogate": min(accuracy, key=accuracy.__getitem__), "accuracy": accuracy})
