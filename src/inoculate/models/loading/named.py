"""Networks by name with weights of the user's: the definition and the normalisation that the file tells."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from inoculate.core.errors import InputError
from inoculate.models.architectures.libraries import other_library
from inoculate.models.architectures.own import alternatives, doubt, own_architecture
from inoculate.models.build import default_normalization
from inoculate.models.loading.checkpoints import ModelSpec
from inoculate.models.loading.fitting import best_match, held_normalization, load_match, read_weights
from inoculate.models.loading.matching import Match, matches
from inoculate.models.loading.weights import StateDict
from inoculate.models.normalize import MeanStd, describe_normalization, set_normalization

_log = logging.getLogger(__name__)


def build_with_weights(spec: ModelSpec, weights: str | Path, *, seed: int = 0) -> tuple[nn.Sequential, ModelSpec]:
    """The network of `spec` with weights from a file (see `load_into`), and its spec as the file completes it.

    spec: its `mean` and `std` are those that the user declared, or None. A normalisation in the file is used; without
    any, the network's default is, and this is said. Where the file fits another definition of the network (a ResNet
    with the small stem), that one is built. Raises `InputError` for weights that do not fit, or contradict what is
    declared.
    """
    states = read_weights(weights)
    spec = _fitting_definition(spec, states)
    model = spec.build(seed=seed, pretrained=False)
    match = best_match(model, states, weights, len(spec.class_names))
    normalize = _normalization(spec, match, weights)
    load_match(model, match, weights)
    spec = replace(spec, mean=normalize[0], std=normalize[1])
    set_normalization(model, normalize)
    return model, spec


def _fitting_definition(spec: ModelSpec, states: Sequence[StateDict]) -> ModelSpec:
    """The spec with the name of the definition that the state dicts fit best, its own first."""
    names, name = (spec.name, *alternatives(spec.name), *other_library(spec.name)), spec.name
    if len(names) > 1:
        problems: dict[str, int] = {}
        for each in names:
            problems[each] = _problems(each, spec, states)
            if not problems[each]:
                break
        name = min(problems, key=lambda each: problems[each])
    if name != spec.name:
        _log.warning("network '%s' is built as '%s', which the weights fit best", spec.name, name)
    if text := doubt(name):
        _log.warning("network '%s' cannot be told from its weights alone: %s", name, text)
    return replace(spec, name=name)


def _problems(name: str, spec: ModelSpec, states: Sequence[StateDict]) -> int:
    """How many tensors of the state dict that fits the network of this name best do not."""
    make = own_architecture(name)
    if make is None:  # of a library
        try:
            network: nn.Module = replace(spec, name=name).build(pretrained=False)
        except InputError:
            if name == spec.name:
                raise
            return sum(len(state.tensors) for state in states)  # the other library's does not take these images
    else:
        with torch.device("meta"):
            network = make(len(spec.class_names), spec.channels, spec.image_size)
    return min(match.problems for match in matches(states, network))


def _normalization(spec: ModelSpec, match: Match, weights: str | Path) -> MeanStd:
    """The normalisation that the file holds, else the declared one, else the network's default.

    Raises `InputError` where the file contradicts what is declared.
    """
    declared = None if spec.mean is None or spec.std is None else (spec.mean, spec.std)
    if "normalize.mean" in match.tensors:  # of the same first layer
        pair = match.tensors["normalize.mean"].flatten(), match.tensors["normalize.std"].flatten()
        match = replace(match, normalization=pair)
    held = held_normalization(match, weights, declared)
    if held is not None:
        if len(held[0]) not in (1, spec.channels):
            raise InputError(f"weights {weights} normalise {len(held[0])} channels and the images have {spec.channels}")
        return held
    if declared is not None:
        return declared
    usual = default_normalization(spec.name, spec.channels)
    _log.warning(
        "weights %s do not say how images are normalised: %s is used; declare another with normalize",
        weights, describe_normalization(usual),
    )  # fmt: skip
    return usual
