"""Everything that a hardening needs, loaded and checked before anything is trained or written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from inoculate.core.duration import parse_duration
from inoculate.core.modes import device_of
from inoculate.core.progress import Progress
from inoculate.core.threat import Threat, large_eps_warning, refuse_mask, require_training_threat
from inoculate.data.load import DataLike
from inoculate.hardening.data import HardeningData, fit_data, load_hardening_data
from inoculate.hardening.export import require_exportable, require_onnx
from inoculate.hardening.measure import require_bounds
from inoculate.hardening.methods import choose_method
from inoculate.hardening.network import is_trained, load_network
from inoculate.hardening.options import HardeningOptions
from inoculate.hardening.recipe import check_augment, peak_lr
from inoculate.models.architectures.small_cnn import SMALL_CNN
from inoculate.models.checks import check_training, model_warnings
from inoculate.models.classifier import prepare
from inoculate.models.loading.load import ModelLike
from inoculate.models.loading.network import Network, model_identity
from inoculate.models.loading.specs import identity
from inoculate.training.methods.base import Method
from inoculate.training.methods.helpers import fallback_for, load_helpers
from inoculate.training.methods.registry import MethodLike, MethodSpec


@dataclass(frozen=True, eq=False)
class Task:
    """A checked hardening. `method` is None where the budget of `seconds` chooses it; `warnings` are found so far."""

    network: Network
    trained: bool
    data: HardeningData
    method: MethodSpec | None
    fallback: Method | None
    helpers: tuple[nn.Module, ...]
    seconds: float
    options: HardeningOptions
    model_id: str
    data_arguments: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def spec(self) -> dict[str, Any]:
        """All that decides the weights, as JSON values; its fingerprint names the folder of the checkpoints."""
        options, data = self.options, self.data
        helpers = [model_identity(each) for each in options.helpers]
        return {
            "model": self.model_id, "weights": options.weights and identity(str(options.weights)),
            "pretrained": options.pretrained, "stem": options.stem, "threat": data.threat.as_dict(),
            "method": None if self.method is None else self.method.spec, "fallback": options.fallback,
            "budget": [self.seconds, options.epochs],
            "data": [part.digest for part in (data.train, data.val, data.test)],
            "helpers": helpers, "batch_size": self.batch_size, "lr": self.lr, "augment": options.augment,
            "seed": data.seed, "declared": options.declared, **({"certify": True} if options.certify else {}),
            "accumulate": options.accumulate,
        }  # fmt: skip

    @property
    def batch_size(self) -> int:
        """Images per update; with fewer images than that they are one batch."""
        return min(self.options.batch_size, len(self.data.train))

    @property
    def lr(self) -> float:
        """The peak learning rate."""
        plain = self.network.spec is not None and self.network.spec.name == SMALL_CNN
        return peak_lr(self.options.lr, plain=plain, trained=self.trained)


def load_task(
    model: ModelLike,
    data: DataLike | Mapping[str, DataLike],
    threat: Threat,
    method: MethodLike | None,
    budget: str | float,
    options: HardeningOptions,
    progress: Progress | None,
) -> Task:
    """Load model, data, method and helpers. Raises `InputError` for whatever would fail later."""
    refuse_mask(require_training_threat(threat), "harden")
    seconds, chosen = parse_duration(budget), choose_method(method, options)
    fallback = fallback_for(chosen, options.fallback, threat)
    if options.onnx:
        require_onnx()
    from_files = isinstance(data, str | os.PathLike)
    parts = load_hardening_data(data, model, threat, options, progress)
    network, trained = load_network(model, parts.train, options)
    parts = fit_data(parts, network.model, options.reading) if from_files else parts
    notes = parts.train.notes if from_files else ()
    large_eps = large_eps_warning(threat, parts.image_shape)
    findings = model_warnings(network.model, parts.val, seed=parts.seed)
    check_training(network.model, parts.train, options.batch_size)
    if options.onnx:
        require_exportable(network.model, parts.image_shape)
    check_augment(options.augment, parts.train)
    is_random = prepare(network.model, parts.val, precision="exact").is_random
    parts = replace(parts, is_random=is_random, certify=options.certify)
    if options.certify:
        require_bounds(network.model, parts)
    helpers, helper_findings = load_helpers(
        chosen.name if chosen else "", options.helpers, parts.train, device=str(device_of(network.model)),
        seed=options.seed,
    )  # fmt: skip
    if chosen is not None:
        chosen.begin(threat, helpers)  # raises where a helper is missing
    return Task(
        network=network, trained=is_trained(network.model, parts.train) if trained is None else trained, data=parts,
        method=chosen, fallback=fallback, helpers=helpers, seconds=seconds, options=options,
        model_id=model_identity(model), data_arguments=_data_arguments(data, options),
        warnings=(*notes, *([large_eps] if large_eps else []), *findings, *helper_findings),
    )  # fmt: skip


def _data_arguments(data: Any, options: HardeningOptions) -> tuple[str, ...]:
    """How the command line loads the same data; empty where they are an object."""
    if not isinstance(data, str | os.PathLike):
        return ()
    root = () if options.data_root is None else ("--data-root", str(options.data_root))
    return ("--data", str(data), *root)
