"""What a training needs, built, loaded and checked before anything is trained or written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import nn

from inoculate.artifacts.output import RUN
from inoculate.artifacts.specs import fingerprint
from inoculate.core.errors import InputError
from inoculate.core.progress import Progress
from inoculate.core.threat import Threat, large_eps_warning
from inoculate.data.augment import augmenter
from inoculate.data.dataset import Dataset
from inoculate.data.load import DataLike, load_data, load_parts, require_whole
from inoculate.data.split import partition
from inoculate.models.checks import check_training
from inoculate.models.loading.checkpoints import ModelSpec
from inoculate.models.loading.load import ModelLike
from inoculate.models.loading.network import Network, model_identity, wrap_copy
from inoculate.models.loading.specs import kind_of
from inoculate.training.distributed import ProcessGroup
from inoculate.training.methods.base import Method
from inoculate.training.methods.helpers import load_helpers
from inoculate.training.methods.registry import MethodSpec
from inoculate.training.options import TrainingOptions
from inoculate.training.plan import TrainingPlan
from inoculate.training.recipe import Recipe, updates_in
from inoculate.training.samples import TrainingSet

MONITORED_ROUNDS_PER_EPOCH = 2  # a failure is detected within an epoch


@dataclass(frozen=True, eq=False)
class TrainingTask:
    """A checked training.

    update: of the method. facts: what the description of the result says. spec: all that decides the weights, as JSON
    values. warnings: found so far.
    """

    network: Network
    data: Dataset
    method: MethodSpec
    update: Method
    threat: Threat
    recipe: Recipe
    facts: Mapping[str, Any]
    spec: Mapping[str, Any]
    warnings: tuple[str, ...]

    def plan(self, val: Dataset, seed: int, fallback: Method | None) -> TrainingPlan:
        threat = self.threat if self.method.is_adversarial else None
        return TrainingPlan(TrainingSet.of(self.data), val, self.update, self.recipe, seed, threat, fallback)


def load_task(
    model: ModelLike,
    data: Dataset,
    method: MethodSpec,
    threat: Threat,
    epochs: int,
    options: TrainingOptions,
    group: ProcessGroup,
) -> TrainingTask:
    """Build the network and load what the method needs; raise `InputError` for whatever would fail later."""
    augmenter(options.augment, data.image_size)  # its own check
    network = _build(model, data, options, group.device)
    recipe = _recipe(method, epochs, len(data), options)
    helpers, warnings = load_helpers(method.name, options.helpers, data, device=group.device, seed=options.seed)
    update = method.begin(threat, helpers)
    part = group.parts(recipe.batch_size, recipe.accumulate)[0]
    check_training(network.model, data, part.stop - part.start)
    facts: dict[str, Any] = {}
    if method.is_adversarial:
        facts = {"method": method.spec, "threat": threat.as_dict()}
        facts |= {"fallback": options.fallback} if options.fallback else {}
        large = large_eps_warning(threat, tuple(data.images.shape[1:]))
        warnings = [*([large] if large else []), *warnings]
    spec = {
        "model": model_identity(model) if network.spec is None else asdict(network.spec),
        "recipe": asdict(recipe), "data": data.digest, "seed": options.seed, **facts,
        "helpers": [model_identity(each) for each in options.helpers],
    }  # fmt: skip
    reading = {"reading": options.reading.spec} if options.reading.spec else {}
    facts = {RUN: fingerprint(spec), "seed": options.seed, "data": data.digest, **reading, **facts}
    return TrainingTask(network, data, method, update, threat, recipe, facts, spec, tuple(warnings))


def check_model(model: ModelLike) -> None:
    """Raise `InputError` for what cannot be built or copied."""
    if isinstance(model, nn.Module):
        return
    if not isinstance(model, str | os.PathLike):
        raise InputError(
            f"model is {type(model).__name__} and cannot be trained: give an nn.Module or a network's name"
        )
    if kind_of(str(model)) != "name":
        raise InputError(f"train builds a new timm network or small_cnn, not {model}: harden trains it further")


def _build(model: ModelLike, data: Dataset, options: TrainingOptions, device: str) -> Network:
    if isinstance(model, nn.Module):
        if options.stem != "imagenet":
            raise InputError("the model is a module and has its own first layer: leave stem out")
        return Network(wrap_copy(model, {}).to(device), type(model).__name__)
    spec = ModelSpec.fitting(str(model), data, options.stem)
    return Network(spec.build(seed=options.seed).to(device), str(model), spec)


def _recipe(method: MethodSpec, epochs: int, size: int, options: TrainingOptions) -> Recipe:
    batch_size = min(options.batch_size, size)
    updates = updates_in(epochs, size, batch_size)
    rounds = epochs * (MONITORED_ROUNDS_PER_EPOCH if method.is_adversarial and not method.is_certified else 1)
    recipe = Recipe(
        updates, rounds=min(updates, rounds), batch_size=batch_size, accumulate=options.accumulate,
        lr=options.lr, augment=options.augment, precision=options.precision,
    )  # fmt: skip
    return method.adapt(recipe)


def load_training_data(
    data: DataLike | Mapping[str, DataLike], options: TrainingOptions, progress: Progress | None
) -> tuple[Dataset, Dataset]:
    """Training and validation images."""
    shape: dict[str, Any] = {"data_root": options.data_root, "preprocessing": options.reading}
    if isinstance(data, str | os.PathLike):
        train, val, _ = load_parts(data, **shape, progress=progress)
    elif isinstance(data, Mapping) and "val" in data and "train" in data:
        require_whole(data)
        train, val = (load_data(data[part], part, **shape, progress=progress) for part in ("train", "val"))
    elif isinstance(data, Mapping):
        raise InputError(f"data for training need 'train' and 'val', got {', '.join(data)}: add the missing part")
    else:
        whole = load_data(data, **shape, progress=progress)
        parts = partition(whole.labels.cpu(), seed=0, test_mask=np.zeros(len(whole), dtype=bool), classes=whole.classes)
        train, val = whole.subset(parts.train), whole.subset(parts.val)
    return (train if options.limit is None else train.limit(options.limit, seed=options.seed)), val
