"""Training methods on the command line: their options, and the networks that some of them need."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inoculate.core.errors import InputError
from inoculate.training.methods.names import METHOD_ARMS, NEEDS_NETWORK, NEEDS_SURROGATES, NEEDS_TEACHER

if TYPE_CHECKING:
    from torch import nn

    from inoculate.core.threat import Threat
    from inoculate.data.dataset import Dataset
    from inoculate.training.methods.base import Method as TrainingMethod

Method = Annotated[str, typer.Option(help=f"standard, {', '.join(METHOD_ARMS[:-1])} or {METHOD_ARMS[-1]}.")]
Eps = Annotated[str, typer.Option(help="What an adversarial method trains against, in units of [0, 1]: 8/255.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", help="An option of the method, such as steps=7, beta=6, awp=0.005, average=0.99."),
]
Teacher = Annotated[Path | None, typer.Option(help="A robust trained folder, for ard and rslad.")]
Surrogates = Annotated[
    list[str] | None,
    typer.Option("--surrogate", help="For ensemble a trained folder (repeatable), for live_surrogate a network."),
]
Fallback = Annotated[
    str | None,
    typer.Option(help="Method to go on with, once, after an alarm: pgd_at. It may cost more time."),
]


def threat_of(norm: str, eps: str) -> Threat:
    """What a method trains against; raises `InputError` for a size that changes nothing."""
    from inoculate.core.threat import Threat, parse_eps

    threat = Threat(norm, parse_eps(eps))  # type: ignore[arg-type]
    if threat.eps == 0:
        raise InputError("eps 0 is no attack: give a size such as 8/255")
    return threat


def parse_options(texts: list[str] | None) -> dict[str, Any]:
    """`["steps=7", "own=false"]` as a mapping of numbers and truth values; raises `InputError` for anything else."""
    found: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InputError(f"option '{text}' is not understood: write it like steps=7")
        found[name.strip()] = _value(value.strip(), text)
    return found


def _value(value: str, text: str) -> bool | int | float:
    from inoculate.core.threat import parse_eps

    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if re.fullmatch(r"[+-]?[0-9]+", value):
        return int(value)
    try:
        return parse_eps(value)
    except InputError:
        raise InputError(f"option '{text}': {value!r} is neither a number nor true or false") from None


def check_help(method: str, teacher: Path | None, surrogates: list[str] | None) -> None:
    """Raise `InputError` for helpers that the method would not look at."""
    if teacher is not None and method not in NEEDS_TEACHER:
        raise InputError(f"{method} takes no teacher: leave --teacher out, or use --method {NEEDS_TEACHER[0]}")
    if surrogates and method not in NEEDS_SURROGATES + NEEDS_NETWORK:
        raise InputError(f"{method} takes no surrogate: leave --surrogate out, or use --method {NEEDS_SURROGATES[0]}")
    if surrogates and len(surrogates) > 1 and method in NEEDS_NETWORK:
        raise InputError(f"{method} trains one network alongside, not {len(surrogates)}: give --surrogate once")


def fallback_for(method: str, is_traced: bool, name: str, threat: Threat) -> TrainingMethod:
    """The method that a training by `method` goes on with after an alarm.

    Raises `InputError` if no alarm can be raised, or if the remedy needs another network.
    """
    from inoculate.training.methods.registry import get_method

    if not is_traced:
        raise InputError(f"method {method} is not watched, so that no alarm would call for --fallback: leave it out")
    if name in NEEDS_TEACHER + NEEDS_SURROGATES + NEEDS_NETWORK:
        raise InputError(f"--fallback {name} needs another network: use one that does not, such as pgd_at")
    return get_method(name).begin(threat)


def warnings_of(history: Sequence[dict[str, float]], fallback: str | None) -> list[str]:
    """The alarms of a training, and what was done about each."""
    from inoculate.training.monitors import detect_failures

    found = []
    for place, (number, message) in enumerate(detect_failures(history)):
        on = fallback and place == 0 and number < len(history)
        found.append(f"{message}; training {f'continued with {fallback}' if on else 'ended'}")
    return found


def helper_networks(
    method: str, teacher: Path | None, surrogates: list[str] | None, images: Dataset, device: str, seed: int
) -> tuple[nn.Module, ...]:
    """The networks that a method needs beside the one it trains: a teacher, surrogates, or one to train along.

    Those that a method does not look at were refused before (`check_help`).
    """
    from inoculate.cli.common import load_network, warn_of
    from inoculate.core.rng import seed_for
    from inoculate.models.loading.checkpoints import made_by_function
    from inoculate.models.loading.specs import ONNX, brings_weights

    taught = method in NEEDS_TEACHER
    role, specs = ("teacher", [str(teacher)] if teacher else []) if taught else ("surrogate", surrogates or [])
    found = []
    for spec in specs:
        if taught and (not Path(spec).is_dir() or made_by_function(Path(spec))):
            why = "is not there" if not Path(spec).exists() else "is not one"
            raise InputError(f"--teacher {spec} {why}: give the folder of a timm network or small_cnn that was trained")
        if not taught and Path(spec).suffix in ONNX:
            raise InputError(f"--surrogate {spec} is an ONNX file, which has no gradients: give a trained folder")
        found.append(load_network(spec, images, device, seed=seed_for(seed, role)))  # a wrong path is named as such
        if method not in NEEDS_NETWORK and not brings_weights(spec):
            raise InputError(f"--{role} {spec} has random weights: train it first, and give its folder")
        warn_of(found[-1], images, seed, f"{role} {spec}: ")
    return tuple(found)
