"""From a model SPEC to a classifier: a timm name, a factory, a TorchScript or ONNX file, or a folder training wrote."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from torch import nn

from inoculate.core.errors import InputError
from inoculate.core.rng import seeded
from inoculate.models.build import build_model
from inoculate.models.loading.checkpoints import DESCRIPTION, load_model, load_weights, read_description
from inoculate.models.loading.exported import ONNX, TORCHSCRIPT, OnnxModel, load_onnx, load_torchscript
from inoculate.models.loading.outputs import wrapper_named
from inoculate.models.normalize import MeanStd, check_channels, normalized


def resolve_model(
    spec: str,
    *,
    class_names: tuple[str, ...],
    channels: int,
    image_size: int,
    weights: Path | None = None,
    pretrained: bool = False,
    outputs: str = "logits",
    normalize: MeanStd | None = None,
    seed: int = 0,
) -> nn.Module:
    """The classifier that `spec` means, for images of this kind; `weights` is a safetensors file to load into it.

    A factory is called without arguments and returns an `nn.Module`, which stays in the mode in which it came. It, or
    the model in a file, takes images in [0, 1], or else `normalize` is the (mean, std) that is put in front of it, and
    gives what `outputs` says: logits, probabilities, or single-logit. Raises `InputError` for whatever cannot be found,
    imported or loaded. Weights that nothing was loaded into depend on `seed` alone.
    """
    wrap, path = wrapper_named(outputs), Path(spec)
    if normalize is not None:
        check_channels(normalize, channels)
    if path.is_dir():
        if normalize is not None or outputs != "logits":
            raise InputError(f"{spec} has its normalisation inside and gives logits: leave normalize and outputs out")
        model = _trained(path, class_names, channels, image_size)
    elif path.suffix in TORCHSCRIPT + ONNX and path.is_file():
        if weights is not None:
            raise InputError(f"model {spec} brings its own weights: leave out {weights}")
        model = load_onnx(path) if path.suffix in ONNX else load_torchscript(path)
    elif ":" in spec:
        with seeded(seed, "weights", spec):
            model = _call_factory(spec)
    elif path.is_file() and ("/" in spec or path.suffix):
        raise InputError(f"model {spec} is no model that can be read: give file.py:factory, and its --weights")
    elif "/" in spec or path.suffix in (".py", ".safetensors", *TORCHSCRIPT, *ONNX):
        raise InputError(
            f"model '{spec}' is not there: give a timm name, file.py:factory, a TorchScript or ONNX file, "
            "or a folder that training wrote"
        )
    else:
        mean, std = normalize or (None, None)
        model = build_model(
            spec, classes=len(class_names), channels=channels, image_size=image_size, mean=mean, std=std,
            pretrained=pretrained and weights is None, seed=seed,
        )  # fmt: skip
        normalize = None  # it is inside
    if weights is not None:
        load_weights(weights, model)
    model = wrap(model)
    model = model if normalize is None else normalized(model, *normalize)
    return model if ":" in spec else model.eval()


def expected_size(spec: str) -> tuple[int, int] | None:
    """(image size, channels) that a trained folder or an ONNX file was made for; None where `spec` does not say."""
    path = Path(spec)
    if path.suffix in ONNX and path.is_file():
        channels, height, width = OnnxModel(path).image_shape
        return (height, channels) if height is not None and height == width and channels is not None else None
    if not path.is_dir():
        return None
    kept = read_description(path)[0]
    return kept.image_size, kept.channels


def brings_weights(spec: str) -> bool:
    """Whether `spec` means a model with weights: anything but a bare timm name."""
    path = Path(spec)
    return path.is_dir() or ":" in spec or path.suffix in TORCHSCRIPT + ONNX


def identity(spec: str) -> str:
    """`spec`, and what its file, folder or module holds: the same words for something else are another model."""
    place = spec.rpartition(":")[0]
    path = Path(place or spec)
    if place and not place.endswith(".py"):
        path = Path(getattr(sys.modules.get(place), "__file__", None) or "")
    file = path / DESCRIPTION if path.is_dir() else path
    return f"{spec} {hashlib.sha256(file.read_bytes()).hexdigest()}" if file.is_file() else spec


def _trained(folder: Path, class_names: tuple[str, ...], channels: int, image_size: int) -> nn.Module:
    model, (kept, _) = load_model(folder), read_description(folder)
    if (kept.channels, kept.image_size, len(kept.class_names)) != (channels, image_size, len(class_names)):
        raise InputError(
            f"{folder} was trained on {kept.image_size}×{kept.image_size} images with {kept.channels} channel(s) and "
            f"{len(kept.class_names)} classes, the data has {image_size}×{image_size}, {channels} and "
            f"{len(class_names)}: choose the data it was trained for"
        )
    if kept.class_names != class_names and sorted(kept.class_names) == sorted(class_names):
        raise InputError(
            f"{folder} knows its classes in another order ({', '.join(kept.class_names)}) than the data "
            f"({', '.join(class_names)}): its labels would be swapped, load the data that it was trained for"
        )
    return model


def _call_factory(spec: str) -> nn.Module:
    place, _, name = spec.rpartition(":")
    module: Any
    _may_import_from(Path(place).parent if place.endswith(".py") else Path())
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"model '{spec}': {place} cannot be imported ({type(error).__name__}: {error})") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise InputError(f"model '{spec}': {place} has no function '{name}': check the name behind the colon")
    try:
        model = factory()
    except (Exception, SystemExit) as error:
        raise InputError(f"model '{spec}': {name}() failed ({type(error).__name__}: {error}): "
                         "it must work without arguments") from error  # fmt: skip
    if not isinstance(model, nn.Module):
        raise InputError(f"model '{spec}': {name}() returned {type(model).__name__}: it must return a torch.nn.Module")
    return model


def _may_import_from(folder: Path) -> None:
    """What lies in `folder` can be imported, as when Python is started there; installed packages come first."""
    if (here := str(folder.resolve())) not in sys.path:
        sys.path.append(here)


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
