"""Keep the better weights: those after hardening, or those that a trained network came with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from inoculate.hardening.data import HardeningData
from inoculate.models.loading.checkpoints import load_weights
from inoculate.training.checkpoint import History
from inoculate.training.monitors import best_round, selection_key
from inoculate.training.validation import validate_round


def keep_better_weights(
    model: nn.Module, original: Mapping[str, Tensor], best_weights: Path, data: HardeningData, history: History
) -> str:
    """Load into `model` the better of its `original` weights and those in `best_weights`; return a warning.

    The original weights are validated on the same images as every round of the training. The warning says that they
    were kept; it is empty where the training's best round is at least as good.
    """
    model.load_state_dict(original)
    best = history[best_round(history)]
    before = validate_round(model, data.val, data.threat, round(best["val_n"]), "val_certified" in best)
    if selection_key(best) < selection_key(before):
        name, how = ("val_certified", "by proof") if "val_certified" in best else ("val_robust", "under attack")
        return (
            f"no round of the training was as good {how} on validation images ({best[name]:.1%}, clean "
            f"{best['val_accuracy']:.1%}) as the original network ({before[name]:.1%}, clean "
            f"{before['val_accuracy']:.1%}): the original weights were kept (a larger budget or a smaller lr may help)"
        )
    load_weights(best_weights, model)
    return ""
