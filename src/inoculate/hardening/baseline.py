"""What a hardened network is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from inoculate.core.copying import copy_module
from inoculate.core.progress import Progress
from inoculate.evaluation.evaluate import EvaluationOptions
from inoculate.evaluation.files import RESULTS
from inoculate.evaluation.result import Evaluation
from inoculate.hardening.data import HardeningData
from inoculate.hardening.measure import measure
from inoculate.models.loading.checkpoints import load_weights
from inoculate.training.checkpoint import BEST
from inoculate.training.distributed import ProcessGroup
from inoculate.training.methods.base import standard
from inoculate.training.plan import TrainingPlan, observe_updates
from inoculate.training.recipe import Recipe, updates_in
from inoculate.training.trainer import fit

BASELINE_EPOCHS = 2  # of standard training, for a network that comes without trained weights
BASELINE = "before"  # the baseline's model name in rows


def measure_baseline(
    folder: Path,
    model: nn.Module,
    trained: bool,
    data: HardeningData,
    recipe: Recipe,
    group: ProcessGroup,
    progress: Progress | None,
) -> Evaluation | None:
    """Measure the network as given or, where it is not `trained`, a copy after short standard training.

    `recipe` gives batch size and learning rate. The result is kept in `folder`, where a resumed run reads it. All
    processes of a group train; the main one measures, the others return None.
    """
    kept = folder / "baseline"
    if group.broadcast((kept / RESULTS).is_file()):  # the last file of an evaluation
        return Evaluation.load(kept) if group.is_main else None
    if not trained:
        model = copy_module(model)
        updates = updates_in(BASELINE_EPOCHS, len(data.train), recipe.batch_size)
        short = Recipe(updates, rounds=1, batch_size=recipe.batch_size, accumulate=recipe.accumulate, lr=recipe.lr)
        plan = TrainingPlan(data.samples, data.val, standard, short, data.seed)
        observer = observe_updates(progress, "before: standard training")
        fit(model, plan, folder / "before", group=group, progress=observer)
        group.barrier()  # every process has read the best weights
    if not group.is_main:
        return None
    found = measure(model, data, EvaluationOptions(name=BASELINE, store=folder / "store"), "before", progress)
    found.save(kept)
    return found


def baseline_network(folder: Path, model: nn.Module, original: Mapping[str, Tensor], trained: bool) -> nn.Module:
    """A copy of `model` with the weights that `measure_baseline` measured: `original` ones, or those in `folder`."""
    network = copy_module(model)
    if trained:
        network.load_state_dict(original)
    else:
        load_weights(folder / "before" / BEST, network)
    return network.eval()
