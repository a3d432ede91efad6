"""The one training loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError  # what a damaged file raises; nothing is unpickled here
from typing import Any, Literal

import torch
from torch import Tensor, nn

from inoculate.artifacts.files import write_file
from inoculate.core.errors import InputError
from inoculate.core.modes import device_of
from inoculate.core.rng import generator, seeded
from inoculate.core.threat import Threat
from inoculate.data.augment import augmenter
from inoculate.data.dataset import Dataset
from inoculate.models.acceleration.compiling import compiled
from inoculate.models.acceleration.hardware import has_native_bf16, set_memory_format
from inoculate.models.checks import check_trainable
from inoculate.models.loading.checkpoints import load_weights, save_weights
from inoculate.training.distributed import SINGLE, Accumulating, ProcessGroup
from inoculate.training.ema import Average
from inoculate.training.methods.base import Method
from inoculate.training.methods.options import strength
from inoculate.training.monitors import detect_failure, detect_failures, may_leak_labels, selection_key
from inoculate.training.samples import TrainingSet
from inoculate.training.validation import measured, validate_robust

CHECKPOINT, BEST = "checkpoint.pt", "best.safetensors"
Progress = Callable[[int, int, dict[str, float]], None]
History = list[dict[str, float]]


@dataclass(frozen=True)
class Recipe:
    """How long and how to train: `updates` optimiser steps of `batch_size` samples, in `rounds` equal parts.

    `accumulate` passes a batch in so many parts, one after the other, where it does not fit into memory at once.
    After each round the model is validated and a checkpoint is written. `patience` stops the training after that many
    rounds without improvement (None: never); the best round's weights are restored in any case. `lr` is the peak of the
    schedule, `augment` a policy of `inoculate.data.augment`, `precision` `auto` (bf16 where the processor has it
    natively), `bf16` or `fp32`. `compile` makes kernels for the network first (torch.compile): about a minute, which
    pays where the training is long and a GPU waits to be told what to do.

    For adversarial methods: `average` is the decay of the weights' running mean (0: none), which is then validated and
    kept; `warmup` the share of the training over which eps grows (the method does it; the guards must know);
    `val_images` how many validation images PGD attacks after each round; `guard` whether an alarm ends the training.
    """

    updates: int
    rounds: int = 1
    batch_size: int = 64
    accumulate: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 2e-3
    weight_decay: float = 0.01
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    patience: int | None = None
    augment: str = "none"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False
    average: float = 0.0
    warmup: float = 0.0
    val_images: int = 512
    stop_on_failure: bool = True


def fit(
    model: nn.Module,
    data: TrainingSet,
    validation: Dataset,
    method: Method,
    recipe: Recipe,
    *,
    seed: int,
    folder: Path,
    progress: Progress | None = None,
    threat: Threat | None = None,
    fallback: Method | None = None,
    group: ProcessGroup = SINGLE,
    after_round: Callable[[dict[str, float]], None] | None = None,
) -> History:
    """Train `model` in place and leave it in eval mode with the weights of its best validation round.

    One entry of the history per round: round, update, loss, accuracy, val_loss, val_accuracy, images_per_second; with a
    `threat` also val_robust, the accuracy under PGD-10 on validation images, which then chooses the best round. When a
    guard raises its alarm (`guards.alarms(history)` says it in words) the training ends at the best weights so far, or
    goes on from there with `remedy`, once.
    Of a `group` of processes each trains on its part of every batch; the main process validates and writes.
    Resumes from the checkpoint in `folder` if there is one; every random draw depends on `seed` and the update's
    number alone, so an interrupted run ends with the weights of an uninterrupted one. Raises `InputError` if the loss
    is not finite, or if batches cannot be shared.
    """
    group.parts(recipe.batch_size, recipe.accumulate)  # its own check, before anything is trained
    if group.size * recipe.accumulate > 1 and any(hasattr(each, "state_dict") for each in (method, fallback)):
        raise InputError(
            "methods free and live_surrogate carry something from one batch to the next: train them in one process and "
            "without accumulating"
        )
    check_trainable(model)
    layout = set_memory_format(model, data.batch(torch.zeros(1, dtype=torch.int64))[0].to(device_of(model)))
    optimizer = make_optimizer(model, recipe)
    scheduler = _make_scheduler(optimizer, recipe)
    average = Average(model, recipe.average, recipe.accumulate) if recipe.average else None
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "average": average}
    parts |= {name: each for name, each in (("method", method), ("remedy", fallback)) if hasattr(each, "state_dict")}
    history: History = _resume(folder / CHECKPOINT, {name: part for name, part in parts.items() if part is not None})
    group.check_same_round(len(history))
    data, prepare = data.near(device_of(model)), augmenter(recipe.augment, data.split.image_size[0])
    for number in range(len(history), recipe.rounds):
        raised = len(detect_failures(history)) if recipe.stop_on_failure and threat else 0
        if _out_of_patience(history, recipe.patience) or raised > (fallback is not None):
            break
        if raised and detect_failure(history):
            load_weights(folder / BEST, model)
            optimizer.state.clear()  # its moments are those of weights that are gone, and so is their mean
            if average:
                average = parts["average"] = Average(model, recipe.average, recipe.accumulate)
        first, last = number * recipe.updates // recipe.rounds, (number + 1) * recipe.updates // recipe.rounds
        watching = average.watching(model) if average else contextlib.nullcontext()
        made = compiled(model, recipe.compile)
        with (
            seeded(seed, "round", number, *([group.rank] if group.rank else [])),
            watching,
            group.averaged_gradients(),
            made,
        ):
            try:
                train = _train(
                    model, data, fallback if raised and fallback else method, recipe, optimizer, scheduler, average,
                    prepare, seed, first, last, progress, group, layout,
                )  # fmt: skip
            except FloatingPointError as error:
                raise InputError(f"{error}: lower lr; {_last_good(history, folder)}") from None
        group.all_reduce_buffers(model)
        with seeded(seed, "mean", number, *([group.rank] if group.rank else [])):
            network = average.network if average else model
        if average:
            group.all_reduce_buffers(network)
        entry = {"round": number + 1, "update": last, **train}
        if group.is_main:
            entry |= measured(network, validation, threat, recipe.val_images)
            if threat is not None:
                entry["strength"] = strength(first / recipe.updates, recipe.warmup)
                if may_leak_labels([*history, entry]):  # mean weights may lag behind those that made the examples
                    entry["train_robust"] = validate_robust(model, data.split, threat, recipe.val_images)
        history.append(group.broadcast(entry))
        if not math.isfinite(history[-1]["val_loss"]):
            raise InputError(
                f"training diverged by update {last}: the loss on validation images is {history[-1]['val_loss']}; "
                f"lower lr; {_last_good(history[:-1], folder)}"
            )
        if group.is_main:
            if best_round(history) == number:
                save_weights(folder / BEST, network)
            state = {name: part.state_dict() for name, part in parts.items() if part is not None}
            write_file(folder / CHECKPOINT, partial(torch.save, {**state, "history": history}))
            if after_round:
                after_round(history[-1])
        group.barrier()
    load_weights(folder / BEST, model)
    model.eval()
    return history


def best_round(history: History) -> int:
    """Index of the round with the highest validation accuracy (robust, where known), the lower loss deciding ties.

    Where robust accuracy is known, a network that has learnt more than one answer for all goes before one that has not.
    """

    def rank(entry: dict[str, float]) -> tuple[object, ...]:
        return *(selection_key(entry) if "val_robust" in entry else (entry["val_accuracy"],)), -entry["val_loss"]

    return max(range(len(history)), key=lambda i: rank(history[i]))


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over all parameters, fused into one kernel."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay, fused=True
    )


def arithmetic(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The recipe's precision, for the time of a block.

    bf16 weights are not kept from pass to pass: a method may change the weights in between (AWP, free).
    """
    bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and has_native_bf16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16, cache_enabled=False)


def updates_in(epochs: float, size: int, batch_size: int) -> int:
    """Updates of `batch_size` samples in so many passes over `size` of them, one at least."""
    return max(1, round(epochs * size / batch_size))


def batch_indices(size: int, batch_size: int, update: int, seed: int) -> Tensor:
    """Samples of one update: a window of an endless row of shuffles of `size` samples, known from its number alone."""
    position, parts = update * batch_size, []
    while batch_size:
        shuffle, offset = divmod(position, size)
        order = torch.randperm(size, generator=generator(seed, "order", shuffle))
        parts.append(order[offset : offset + batch_size])
        position, batch_size = position + len(parts[-1]), batch_size - len(parts[-1])
    return torch.cat(parts)


def _train(
    model: nn.Module,
    data: TrainingSet,
    method: Method,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    average: Average | None,
    prepare: Callable[[Tensor, torch.Generator], Tensor],
    seed: int,
    first: int,
    last: int,
    progress: Progress | None,
    group: ProcessGroup,
    layout: torch.memory_format,
) -> dict[str, float]:
    """Updates `first` to `last`; the means of what the method reports, and the images per second."""
    model.train()
    began, sums = time.perf_counter(), {"loss": 0.0, "accuracy": 0.0}
    device, size = device_of(model), recipe.batch_size
    shares = group.parts(recipe.batch_size, recipe.accumulate)
    stepper = optimizer if len(shares) == 1 else Accumulating(optimizer, len(shares))
    copies = recipe.augment != "none" and not bool(data.original.all())  # they stay as they were made
    for update in range(first, last):
        draw = generator(seed, "update", update)
        x, y, original = data.batch(batch_indices(len(data), recipe.batch_size, update, seed))
        if not copies:
            x = prepare(x, draw)
        elif original.any():
            x[original] = prepare(x[original], draw)
        lr, share = optimizer.param_groups[0]["lr"], update / recipe.updates
        each: list[dict[str, float]] = []
        for rows in shares:
            inputs, labels = x[rows].to(device, memory_format=layout), y[rows].to(device)
            with arithmetic(recipe, device):
                each.append(method(model, stepper, inputs, labels, generator=_alike(draw), share=share))  # type: ignore[arg-type]
        means = group.mean({name: sum(one[name] for one in each) / len(each) for name in each[0]})
        scheduler.step()
        if not math.isfinite(means["loss"]):
            epoch, position = divmod(update * size, len(data))
            raise FloatingPointError(
                f"training diverged at update {update + 1} of {recipe.updates} "
                f"(batch {position // size + 1} of epoch {epoch + 1}, loss {means['loss']}, "
                f"lr {lr:.3g} of at most {recipe.lr:g})"
            )
        if average:
            average.update(model)
        sums = {name: sums.get(name, 0.0) + value for name, value in means.items()}
        if progress:
            speed = (update + 1 - first) * recipe.batch_size / (time.perf_counter() - began)
            progress(update + 1, recipe.updates, {**means, "images_per_second": speed})
    seconds = time.perf_counter() - began
    means = {name: value / (last - first) for name, value in sums.items()}
    return {**means, "images_per_second": (last - first) * recipe.batch_size / seconds}


def _alike(draw: torch.Generator) -> torch.Generator:
    """A generator that goes on as `draw` does: every share of a batch is treated as the whole would be."""
    twin = torch.Generator(draw.device)
    twin.set_state(draw.get_state())
    return twin


def _make_scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe) -> torch.optim.lr_scheduler.LRScheduler:
    if recipe.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=recipe.updates)
    # One update more than are made, because the scheduler refuses the step after the last; and at least five, because
    # with four its first phase has no length.
    steps = max(recipe.updates + 1, 5)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps, pct_start=0.25)


def _out_of_patience(history: History, patience: int | None) -> bool:
    return patience is not None and bool(history) and len(history) - 1 - best_round(history) >= patience


def _last_good(history: History, folder: Path) -> str:
    """Where to go back to after a divergence, in words."""
    if not history:
        return "there is no earlier checkpoint"
    best = history[best_round(history)]
    return f"the last good weights, of update {best['update']:.0f}, are in {folder / BEST}"


def _resume(path: Path, parts: dict[str, Any]) -> History:
    """Load a checkpoint into what was saved of a training; an empty history if there is none that can be read."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError):  # none yet, or damaged: train from the start
        return []
    if not isinstance(state, dict) or not {*parts, "history"} <= set(state):
        return []
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"{path} is of another network: remove it to train from the start") from error
    history: History = state["history"]
    return history
