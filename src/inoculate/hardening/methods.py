"""The training method of a hardening, the networks that it needs, and its fallback."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from inoculate.core.errors import InputError
from inoculate.core.rng import seed_for
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.hardening.options import HardeningOptions
from inoculate.models.checks import inspect_model
from inoculate.models.loading.checkpoints import made_by_function
from inoculate.models.loading.load import load_model
from inoculate.models.loading.specs import ONNX, brings_weights
from inoculate.training.methods.base import Method
from inoculate.training.methods.names import NEEDS_NETWORK, NEEDS_SURROGATES, NEEDS_TEACHER
from inoculate.training.methods.registry import MethodSpec, get_method
from inoculate.training.monitors import detect_failures


def choose_method(method: Any, options: HardeningOptions) -> MethodSpec | None:
    if method is None and options.method_options:
        raise InputError("method options are for a method: name one, or leave both out")
    chosen = None if method is None else get_method(method, **options.method_options)
    name = method or "a hardening without a method"
    teacher, surrogates = options.teacher, options.surrogates
    if teacher is not None and method not in NEEDS_TEACHER:
        raise InputError(f"{name} takes no teacher: leave the teacher out, or use method {NEEDS_TEACHER[0]}")
    if surrogates and method not in NEEDS_SURROGATES + NEEDS_NETWORK:
        raise InputError(f"{name} takes no surrogate: leave surrogates out, or use method {NEEDS_SURROGATES[0]}")
    if len(surrogates) > 1 and method in NEEDS_NETWORK:
        raise InputError(f"{name} trains one network alongside, not {len(surrogates)}: give one surrogate")
    return chosen


def choose_fallback(method: MethodSpec | None, threat: Threat, options: HardeningOptions) -> Method | None:
    if options.fallback is None:
        return None
    if method is not None and not method.is_monitored:
        raise InputError(f"method {method.name} is not monitored, so no alarm would start a fallback: leave it out")
    if options.fallback in NEEDS_TEACHER + NEEDS_SURROGATES + NEEDS_NETWORK:
        raise InputError(f"fallback {options.fallback} needs another network: use one that does not, such as pgd_at")
    return get_method(options.fallback).begin(threat)


def alarm_warnings(history: Sequence[dict[str, float]], fallback: str | None) -> list[str]:
    found = []
    for place, (number, message) in enumerate(detect_failures(history)):
        continued = fallback and place == 0 and number < len(history)
        found.append(f"{message}; training {f'continued with {fallback}' if continued else 'ended'}")
    return found


def load_helpers(method: str, images: Dataset, options: HardeningOptions) -> tuple[tuple[nn.Module, ...], list[str]]:
    taught = method in NEEDS_TEACHER
    role, specs = (
        ("teacher", [options.teacher] if options.teacher else []) if taught else ("surrogate", options.surrogates)
    )
    found, warnings = [], []
    for spec in map(str, specs):
        if taught and (not Path(spec).is_dir() or made_by_function(Path(spec))):
            why = "is not there" if not Path(spec).exists() else "is not one"
            raise InputError(f"--teacher {spec} {why}: give the folder of a timm network or small_cnn that was trained")
        if not taught and Path(spec).suffix in ONNX:
            raise InputError(f"--surrogate {spec} is an ONNX file, which has no gradients: give a trained folder")
        helper = load_model(spec, images, seed=seed_for(options.seed, role)).to(options.device or "cpu")
        if method not in NEEDS_NETWORK and not brings_weights(spec):
            raise InputError(f"--{role} {spec} has random weights: train it first, and give its folder")
        sample = images.limit(min(64, len(images)), seed=options.seed)
        warnings += [
            f"{role} {spec}: {each}"
            for each in inspect_model(helper, sample.images, sample.labels, len(images.classes))
        ]
        found.append(helper)
    return tuple(found), warnings
