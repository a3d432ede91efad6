"""The one training loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from inoculate.core.errors import InputError
from inoculate.core.modes import device_of
from inoculate.models.acceleration.hardware import set_memory_format
from inoculate.models.checks import check_trainable
from inoculate.models.loading.checkpoints import load_weights, save_weights
from inoculate.training.batches import Batches
from inoculate.training.checkpoint import BEST, CHECKPOINT, History, TrainerState
from inoculate.training.distributed import SINGLE, ProcessGroup, undivided
from inoculate.training.methods.base import Method, Stateful
from inoculate.training.methods.options import eps_scale
from inoculate.training.monitors import best_round, detect_failure, detect_failures, may_leak_labels
from inoculate.training.plan import TrainingPlan, UpdateObserver
from inoculate.training.recipe import Recipe
from inoculate.training.updates import last_good_weights, round_seed, train_round
from inoculate.training.validation import robust_accuracy, validate_round


def fit(
    model: nn.Module,
    plan: TrainingPlan,
    folder: Path,
    *,
    group: ProcessGroup = SINGLE,
    progress: UpdateObserver | None = None,
    after_round: Callable[[dict[str, float]], None] | None = None,
) -> History:
    """Train `model` in place and leave it in eval mode with the weights of its best validation round.

    The history has one entry per round: round, update, loss, accuracy, val_loss, val_accuracy, val_majority,
    images_per_second. With a threat also val_robust, the accuracy under `ShortEnsemble` on validation images, which
    then chooses the best round. When a monitor detects a failure (`detect_failures`), the training ends, or continues
    with the fallback from the best weights so far, once.

    Of a `group` of processes each trains on its part of every batch; the main process validates and writes. Resumes
    from the checkpoint in `folder` if there is one, with the weights of an uninterrupted training. Raises `InputError`
    if the loss is not finite, or if batches cannot be divided.
    """
    check_divisible(plan, group)
    check_trainable(model)
    first_image = plan.samples.batch(torch.zeros(1, dtype=torch.int64))[0]
    layout = set_memory_format(model, first_image.to(device_of(model)))
    state = TrainerState.start(model, plan.recipe, plan.methods)
    state.resume(folder / CHECKPOINT)
    group.check_same_round(len(state.history))
    batches = Batches.of(plan.samples, plan.recipe, plan.seed, device_of(model), layout)
    for number in range(len(state.history), plan.recipe.rounds):
        method = _method_of_round(plan, state, folder)
        if method is None:
            break
        metrics = train_round(plan, state, batches, method, number, group, progress, folder)
        network = _network_of_round(plan, state, number, group)
        entry = {"round": number + 1, "update": plan.recipe.updates_of_round(number).stop, **metrics}
        if group.is_main:
            entry |= _validate(plan, state, network, entry)
        state.history.append(group.broadcast(entry))
        _check_finite(state.history, folder)
        if group.is_main:
            if best_round(state.history) == number:
                save_weights(folder / BEST, network)
            state.save(folder / CHECKPOINT)
            if after_round:
                after_round(state.history[-1])
        group.barrier()
    load_weights(folder / BEST, model)
    model.eval()
    return state.history


def check_divisible(plan: TrainingPlan, group: ProcessGroup) -> None:
    """Raise `InputError` unless a batch can be divided into the parts that are asked for."""
    group.parts(plan.recipe.batch_size, plan.recipe.accumulate)
    stateful = any(isinstance(each, Stateful) for each in plan.methods.values())
    if group.size * plan.recipe.accumulate > 1 and stateful:
        raise undivided()


def _method_of_round(plan: TrainingPlan, state: TrainerState, folder: Path) -> Method | None:
    """The method of the next round, after a failure with the best weights so far; None if the training has ended."""
    history, recipe = state.history, plan.recipe
    failures = detect_failures(history) if recipe.stop_on_failure and plan.threat else []
    if _out_of_patience(history, recipe) or len(failures) > (plan.fallback is not None):
        return None
    if not failures or plan.fallback is None:
        return plan.method
    if detect_failure(history):
        state.restart_from(folder / BEST)
    return plan.fallback


def _network_of_round(plan: TrainingPlan, state: TrainerState, number: int, group: ProcessGroup) -> nn.Module:
    """What is validated and kept: the model, or the one with averaged weights; the same in every process."""
    group.all_reduce_buffers(state.model)
    if state.ema is None:
        return state.model
    with round_seed(plan.seed, "mean", number, group):
        network = state.ema.network()
    group.all_reduce_buffers(network)
    return network


def _validate(plan: TrainingPlan, state: TrainerState, network: nn.Module, entry: dict[str, float]) -> dict[str, float]:
    """What validation adds to the entry of a round."""
    recipe = plan.recipe
    found = validate_round(network, plan.val, plan.threat, recipe.val_images, recipe.certify)
    if plan.threat is not None and not recipe.certify:
        begin = recipe.updates_of_round(int(entry["round"]) - 1).start
        found["strength"] = eps_scale(begin / recipe.updates, recipe.warmup)
        if may_leak_labels([*state.history, {**entry, **found}]):
            # of the model itself, on which the examples were crafted: averaged weights may lag behind
            found["train_robust"] = robust_accuracy(state.model, plan.samples.data, plan.threat, recipe.val_images)
    return found


def _out_of_patience(history: History, recipe: Recipe) -> bool:
    """While the learning rate is high, statistics of BatchNorm lag behind: accuracy jumps, and no round counts."""
    if recipe.patience is None or not history:
        return False
    return len(history) - max(best_round(history) + 1, recipe.rounds // 2) >= recipe.patience


def _check_finite(history: History, folder: Path) -> None:
    """Raise `InputError` if the last round's validation loss is not finite."""
    last = history[-1]
    if not math.isfinite(last["val_loss"]):
        raise InputError(
            f"training diverged by update {last['update']}: the loss on validation images is {last['val_loss']}; "
            f"lower lr; {last_good_weights(history[:-1], folder)}"
        )
