"""The updates of one round."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inoculate.core.calls import pure_calls
from inoculate.core.errors import InputError
from inoculate.core.outputs import logits_of
from inoculate.core.rng import generator, seeded
from inoculate.models.acceleration.compiling import compiled
from inoculate.training.batches import Batches
from inoculate.training.checkpoint import BEST, History, TrainerState
from inoculate.training.distributed import Accumulating, ProcessGroup
from inoculate.training.methods.base import Method
from inoculate.training.monitors import best_round
from inoculate.training.plan import TrainingPlan, UpdateObserver
from inoculate.training.recipe import autocast


def train_round(
    plan: TrainingPlan,
    state: TrainerState,
    batches: Batches,
    method: Method,
    number: int,
    group: ProcessGroup,
    progress: UpdateObserver | None,
    folder: Path,
) -> dict[str, float]:
    """Make the updates of a round; the means of the method's metrics, and the images per second."""
    model, recipe = state.model, plan.recipe
    updates, started, sums = recipe.updates_of_round(number), time.perf_counter(), {"loss": 0.0, "accuracy": 0.0}
    with contextlib.ExitStack() as stack:
        stack.enter_context(round_seed(plan.seed, "round", number, group))
        if state.ema:
            stack.enter_context(state.ema.recording(model))
        stack.enter_context(group.averaged_gradients())
        stack.enter_context(compiled(model, recipe.compile))
        stack.enter_context(_returning_logits(model))
        model.train()
        for update in updates:
            lr = state.optimizer.param_groups[0]["lr"]
            metrics = _update(plan, state, batches, method, update, group)
            if not math.isfinite(metrics["loss"]):
                raise InputError(_divergence_message(plan, update, metrics["loss"], lr, state.history, folder))
            sums = {name: sums.get(name, 0.0) + value for name, value in metrics.items()}
            if progress:
                speed = (update + 1 - updates.start) * recipe.batch_size / (time.perf_counter() - started)
                progress(update + 1, recipe.updates, {**metrics, "images_per_second": speed})
    seconds = time.perf_counter() - started
    means = {name: value / len(updates) for name, value in sums.items()}
    return {**means, "images_per_second": len(updates) * recipe.batch_size / seconds}


def _update(
    plan: TrainingPlan, state: TrainerState, batches: Batches, method: Method, update: int, group: ProcessGroup
) -> dict[str, float]:
    """One optimiser step on one batch; the mean metrics of all its parts."""
    recipe, draw = plan.recipe, generator(plan.seed, "update", update)
    x, y, samples = batches.load(update, draw)
    parts = group.parts(recipe.batch_size, recipe.accumulate)
    optimizer: Any = state.optimizer if len(parts) == 1 else Accumulating(state.optimizer, len(parts))
    found: list[dict[str, float]] = []
    try:
        for rows in parts:
            inputs, labels = batches.place(x[rows], y[rows])
            with autocast(recipe, batches.device):
                found.append(
                    method(
                        state.model, optimizer, inputs, labels,
                        generator=_clone(draw), progress=update / recipe.updates, samples=samples[rows],
                    )
                )  # fmt: skip
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"not enough memory to train on {len(x[rows])} images at once: use a smaller batch size, or accumulate to "
            "pass each batch in parts"
        ) from error
    metrics = group.mean({name: sum(each[name] for each in found) / len(found) for name in found[0]})
    state.scheduler.step()
    if state.ema and math.isfinite(metrics["loss"]):
        state.ema.update(state.model)
    return metrics


@contextlib.contextmanager
def _returning_logits(model: nn.Module) -> Iterator[None]:
    """Inside, the model edits no input and returns logits, also where it returns more in train mode than in eval mode.

    A compiled model is left alone: a hook would have it compiled again.
    """
    hook = None
    if model._compiled_call_impl is None:
        hook = model.register_forward_hook(lambda module, inputs, output: logits_of(output))
    try:
        with pure_calls(model):
            yield
    finally:
        if hook is not None:
            hook.remove()


def round_seed(seed: int, name: str, number: int, group: ProcessGroup) -> contextlib.AbstractContextManager[None]:
    """The global random state of a round, from which layers such as dropout draw; another one in each process."""
    return seeded(seed, name, number, *([group.rank] if group.rank else []))


def _clone(draw: torch.Generator) -> torch.Generator:
    """A generator in the same state: every part of a batch is treated as the whole would be."""
    clone = torch.Generator(draw.device)
    clone.set_state(draw.get_state())
    return clone


def _divergence_message(plan: TrainingPlan, update: int, loss: float, lr: float, history: History, folder: Path) -> str:
    epoch, position = divmod(update * plan.recipe.batch_size, len(plan.samples))
    return (
        f"training diverged at update {update + 1} of {plan.recipe.updates} "
        f"(batch {position // plan.recipe.batch_size + 1} of epoch {epoch + 1}, loss {loss}, "
        f"lr {lr:.3g} of at most {plan.recipe.lr:g}): lower lr; {last_good_weights(history, folder)}"
    )


def last_good_weights(history: History, folder: Path) -> str:
    """Where the weights before a divergence are, in words."""
    if not history:
        return "there is no earlier checkpoint"
    best = history[best_round(history)]
    return f"the last good weights, of update {best['update']:.0f}, are in {folder / BEST}"
