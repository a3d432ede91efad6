"""The other networks that some methods need: a teacher, surrogates, or a network that is trained alongside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from inoculate.core.copying import copy_module
from inoculate.core.errors import InputError
from inoculate.core.rng import seed_for
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.models.checks import model_warnings
from inoculate.models.loading.checkpoints import made_by_function
from inoculate.models.loading.load import ModelLike, as_module, load_model
from inoculate.models.loading.specs import brings_weights
from inoculate.training.methods.base import Method
from inoculate.training.methods.names import NEEDS_NETWORK, NEEDS_SURROGATES, NEEDS_TEACHER
from inoculate.training.methods.registry import MethodSpec, get_method


def check_helpers(method: str, teacher: ModelLike | None, surrogates: Sequence[ModelLike]) -> None:
    """Raise `InputError` for helpers that `method` does not use."""
    if teacher is not None and method not in NEEDS_TEACHER:
        raise InputError(f"{method} takes no teacher: leave the teacher out, or use method {NEEDS_TEACHER[0]}")
    if surrogates and method not in NEEDS_SURROGATES + NEEDS_NETWORK:
        raise InputError(f"{method} takes no surrogate: leave surrogates out, or use method {NEEDS_SURROGATES[0]}")
    if len(surrogates) > 1 and method in NEEDS_NETWORK:
        raise InputError(f"{method} trains one network alongside, not {len(surrogates)}: give one surrogate")


def load_helpers(
    method: str, helpers: Sequence[ModelLike], data: Dataset, *, device: str, seed: int
) -> tuple[tuple[nn.Module, ...], list[str]]:
    """The networks that `method` needs beside the one it trains, and what looks wrong with them.

    Raises `InputError` for a helper that cannot be used.
    """
    role = "teacher" if method in NEEDS_TEACHER else "surrogate"
    networks: list[nn.Module] = []
    warnings: list[str] = []
    for helper in helpers:
        name = str(helper) if isinstance(helper, str | Path) else type(helper).__name__
        network = _load(method, role, helper, data, seed).to(device)
        warnings += model_warnings(network, data, seed=seed, name=f"{role} {name}")
        networks.append(network)
    return tuple(networks), warnings


def fallback_for(method: MethodSpec | None, fallback: str | None, threat: Threat) -> Method | None:
    """The update of the method `fallback`, with which a training by `method` continues after a failure.

    method: None if it is chosen later, among methods that are monitored. Raises `InputError` if no failure would be
    detected, or if the fallback needs another network.
    """
    if fallback is None:
        return None
    if method is not None and not method.is_monitored:
        raise InputError(f"method {method.name} is not monitored, so no failure would start a fallback: leave it out")
    if fallback in NEEDS_TEACHER + NEEDS_SURROGATES + NEEDS_NETWORK:
        raise InputError(f"fallback {fallback} needs another network: use one that does not, such as pgd_at")
    return get_method(fallback).begin(threat)


def _load(method: str, role: str, helper: ModelLike, data: Dataset, seed: int) -> nn.Module:
    if not isinstance(helper, str | Path):
        network = as_module(helper, data)
        return copy_module(network) if method in NEEDS_NETWORK else network  # it is trained
    path = Path(helper)
    if role == "teacher" and (not path.is_dir() or made_by_function(path)):
        why = "is not one" if path.exists() else "does not exist"
        raise InputError(f"teacher {helper} {why}: give the folder of a timm network or small_cnn that was trained")
    network = load_model(helper, data, seed=seed_for(seed, role))
    if method not in NEEDS_NETWORK and not brings_weights(str(helper)):
        raise InputError(f"{role} {helper} has random weights: train it first, and give its folder")
    return network
