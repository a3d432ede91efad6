"""Which examples fool which model: crafted on each, judged on all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from inoculate.attacks.base import Attack
from inoculate.attacks.registry import ATTACKS
from inoculate.attacks.sweep import sweep
from inoculate.core.errors import InputError
from inoculate.core.rng import generator
from inoculate.core.row import Row
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import Precision, Progress, check_precision, judge_clean
from inoculate.evaluation.per_sample import Verdict, check_allowed, judge_batch, loader
from inoculate.models.acceleration.fast import fast, original
from inoculate.models.acceleration.small_maps import inference_context


def transfer_matrix(
    models: Mapping[str, nn.Module],
    split: Dataset,
    attack: Attack,
    threat: Threat,
    epsilons: Sequence[float],
    *,
    batch_size: int = 256,
    seed: int = 0,
    precision: Precision = "fast",
    arm: str = "standard",
    name: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Row]:
    """Accuracies of every model (float images in [0, 1] → logits) on examples crafted on every model, at each eps.

    A row per model for clean accuracy, then crafted-on × evaluated-on × eps, in that order: `white-box` where the two
    are the same model, `transfer:<crafted on>/<arm>` elsewhere. `threat` supplies norm and range.

    Every image is attacked once per source, in full and whether or not that source gets it right: what no longer
    matters to the source may still fool another model. Every image counts, and a clean error of the evaluated model is
    an error. Crafting goes through a `fast` copy unless `precision="exact"`; the verdict is always the model's own.
    `seconds` of a white-box row include the crafting, those of the others are for judging alone. `name` is the attack's
    in the rows: by default its registry name, else its class's in lower case. `progress` is told (source, done, total).

    Raises `InputError` for no models, for images or labels that a model cannot take, and for an attack that leaves the
    ball or the range.
    """
    if not models:
        raise InputError("no models to compare: give at least one")
    check_precision(precision)
    models = {name: original(model) for name, model in models.items()}
    name = name or next((key for key, known in ATTACKS.items() if known == attack), type(attack).__name__.lower())
    labels: dict[str, Any] = {"dataset": split.name, "arm": arm, "norm": threat.norm, "seed": seed}
    clean = {target: judge_clean(model, split, batch_size) for target, model in models.items()}
    rows = [v.row(**labels, model=m, attack="none", protocol="white-box") for m, v in clean.items()]
    for source, model in models.items():
        crafting = fast(model) if precision == "fast" else model
        # The source is judged first, so that the time it took to craft is on its account.
        order = {source: model, **models}
        told = None if progress is None else partial(progress, source)
        verdicts = _judge_all(order, crafting, split, attack, threat, epsilons, batch_size, seed, told)
        for target in models:
            protocol = "white-box" if target == source else f"transfer:{source}/{arm}"
            for verdict in verdicts[target]:
                counted = replace(verdict, right=verdict.right & clean[target].right)
                rows.append(counted.row(**labels, model=target, attack=name, protocol=protocol))
    return rows


def _judge_all(
    models: Mapping[str, nn.Module],
    crafting: nn.Module,
    split: Dataset,
    attack: Attack,
    threat: Threat,
    epsilons: Sequence[float],
    batch_size: int,
    seed: int,
    progress: Progress | None,
) -> dict[str, list[Verdict]]:
    """Craft each batch once on `crafting` and show it to every model: per model, one verdict per eps."""
    right = {(target, eps): torch.zeros(len(split), dtype=torch.bool) for target in models for eps in epsilons}
    seconds = dict.fromkeys(right, 0.0)
    with ExitStack() as held:
        for model in models.values():
            held.enter_context(inference_context(model))
        load = loader(crafting, split)
        for start in range(0, len(split), batch_size):
            rows = torch.arange(start, min(start + batch_size, len(split)))
            x, y = load(rows)
            draws = generator(seed, "attack", device=x.device)
            began = time.perf_counter()
            for eps, x_adv in sweep(attack, crafting, x, y, threat, epsilons, generator=draws):
                check_allowed(x_adv, x, replace(threat, eps=eps))
                for target, model in models.items():
                    right[target, eps][rows] = judge_batch(model, x_adv, y, len(split.classes))
                    ended = time.perf_counter()
                    seconds[target, eps] += ended - began
                    began = ended
            if progress:
                progress(min(start + batch_size, len(split)), len(split))
    return {target: [Verdict(eps, right[target, eps], seconds[target, eps]) for eps in epsilons] for target in models}
