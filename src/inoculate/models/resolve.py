"""From a model SPEC to a classifier: a timm name, a factory in a package or a file, or a folder that training wrote."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from torch import nn

from inoculate.errors import InputError
from inoculate.models.build import build_model
from inoculate.models.checkpoint import load_model, load_weights, read_description


def resolve_model(
    spec: str,
    *,
    class_names: tuple[str, ...],
    channels: int,
    image_size: int,
    weights: Path | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """The classifier that `spec` means, for images of this kind; `weights` is a safetensors file to load into it.

    A factory is called without arguments and returns an `nn.Module` that takes images in [0, 1] and gives logits.
    Raises `InputError` for whatever cannot be found, imported or loaded.
    """
    classes = len(class_names)
    if Path(spec).is_dir():
        model: nn.Module
        model, kept = load_model(Path(spec))
        if (kept.channels, kept.image_size, len(kept.class_names)) != (channels, image_size, classes):
            raise InputError(
                f"{spec} was trained on {kept.image_size}×{kept.image_size} images with {kept.channels} channel(s) and "
                f"{len(kept.class_names)} classes, the data has {image_size}×{image_size}, {channels} and {classes}: "
                "choose the data it was trained for"
            )
        if kept.class_names != class_names and sorted(kept.class_names) == sorted(class_names):
            raise InputError(
                f"{spec} knows its classes in another order ({', '.join(kept.class_names)}) than the data "
                f"({', '.join(class_names)}): its labels would be swapped, load the data that it was trained for"
            )
    elif ":" in spec:
        model = _call_factory(spec)
    elif "/" in spec or spec.endswith((".py", ".pt", ".pth", ".safetensors")):
        raise InputError(
            f"model '{spec}' is not there: give a timm name, file.py:factory or a folder that training wrote"
        )
    else:
        model = build_model(
            spec, classes=classes, channels=channels, image_size=image_size, pretrained=pretrained and weights is None
        )
    if weights is not None:
        load_weights(weights, model)
    return model.eval()


def expected_size(spec: str) -> tuple[int, int] | None:
    """(image size, channels) that a trained folder was made for; None for any other SPEC."""
    if not Path(spec).is_dir():
        return None
    kept = read_description(Path(spec))[0]
    return kept.image_size, kept.channels


def _call_factory(spec: str) -> nn.Module:
    place, _, name = spec.rpartition(":")
    module: Any
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"model '{spec}': {place} cannot be imported ({type(error).__name__}: {error})") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise InputError(f"model '{spec}': {place} has no function '{name}': check the name behind the colon")
    try:
        model = factory()
    except Exception as error:
        raise InputError(f"model '{spec}': {name}() failed ({type(error).__name__}: {error}): "
                         "it must work without arguments") from error  # fmt: skip
    if not isinstance(model, nn.Module):
        raise InputError(f"model '{spec}': {name}() returned {type(model).__name__}: it must return a torch.nn.Module")
    return model


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"model file {path} is not there: check the path")
    found = importlib.util.spec_from_file_location(path.stem, path)
    if found is None or found.loader is None:
        raise InputError(f"model file {path} is not a Python file: give file.py:factory")
    module = importlib.util.module_from_spec(found)
    sys.modules[path.stem] = module
    found.loader.exec_module(module)
    return module
