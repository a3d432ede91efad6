"""From whatever names or computes a model to an `nn.Module`: images in [0, 1] to logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from inoculate.core.errors import InputError
from inoculate.core.rng import seeded
from inoculate.data.dataset import Dataset
from inoculate.models.build import build_model
from inoculate.models.loading.checkpoints import load_folder, load_weights, read_description
from inoculate.models.loading.factories import call_factory
from inoculate.models.loading.onnx import OnnxModel
from inoculate.models.loading.outputs import Declared
from inoculate.models.loading.specs import ONNX, TORCHSCRIPT, kind_of
from inoculate.models.loading.torchscript import ScriptedModel, load_torchscript
from inoculate.models.normalize import MeanStd, check_channels, parse_normalize

ModelLike: TypeAlias = nn.Module | Callable[[Tensor], Any] | str | Path


def load_model(
    spec: ModelLike,
    data: Dataset | None = None,
    *,
    weights: str | Path | None = None,
    pretrained: bool = False,
    outputs: str = "logits",
    normalize: MeanStd | str | None = None,
    seed: int = 0,
) -> nn.Module:
    """The classifier that `spec` names or is, in eval mode: float images in [0, 1], B×C×H×W → logits B×K.

    Args:
        spec: a timm name or `small_cnn`, `package.module:factory`, `file.py:factory`, a folder written by a training, a
            TorchScript file or an ONNX file. A factory is called without arguments and returns an `nn.Module`. Or a
            module, which is not copied, or a function, to be put behind `normalize` or `outputs`.
        data: supplies the number of classes, the channels and the size of the images. A timm name needs it; elsewhere
            it is checked against what the model was made for.
        weights: safetensors file to load.
        pretrained: download timm's weights.
        outputs: what the model gives: `logits`, `probabilities` or `single-logit`.
        normalize: normalisation to put in front: (mean, std), or a text such as `imagenet` or `0.5/0.25`.
        seed: of random weights.

    Raises `InputError` for whatever cannot be found, imported or loaded.
    """
    mean_std = parse_normalize(normalize) if isinstance(normalize, str) else normalize
    declared = Declared(outputs, mean_std)
    if mean_std is not None and data is not None:
        check_channels(mean_std, data.channels)
    if isinstance(spec, str | Path):
        model, declared = _named(str(spec), data, weights is not None, pretrained, declared, seed)
    else:
        model = as_module(spec)
    if weights is not None:
        load_weights(Path(weights), model)
    return declared.wrap(model).eval()


def _named(
    spec: str, data: Dataset | None, has_weights: bool, pretrained: bool, declared: Declared, seed: int
) -> tuple[nn.Module, Declared]:
    """The model that a SPEC names, and what of the declaration it does not hold inside."""
    kind = kind_of(spec)
    if kind == "folder" and declared != Declared():
        raise InputError(f"{spec} has its normalisation inside and gives logits: leave normalize and outputs out")
    if kind in ("torchscript", "onnx") and Path(spec).is_file() and has_weights:
        raise InputError(f"model {spec} has its own weights: leave the other weights out")
    if kind != "name":
        return _load(spec, data, seed), declared
    _require_name(spec)
    model = _build(spec, data, pretrained and not has_weights, declared.normalize, seed)
    return model, replace(declared, normalize=None)


def as_module(model: ModelLike, data: Dataset | None = None) -> nn.Module:
    """`model` as an `nn.Module`: a SPEC is loaded (see `load_model`), a function from images to logits is wrapped.

    An `nn.Module` is returned as it is, a TorchScript module inside one. Gradients pass through a wrapped function.
    Raises `InputError` for anything else.
    """
    if isinstance(model, torch.jit.ScriptModule):
        return ScriptedModel(model)
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, str | Path):
        return load_model(model, data)
    if callable(model):
        return FunctionModel(model)
    raise InputError(
        f"model is {type(model).__name__}: give an nn.Module, a function from images to logits, or a model SPEC"
    )


class FunctionModel(nn.Module):
    """A function from images (B×C×H×W) to logits as a module without parameters."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def _load(spec: str, data: Dataset | None, seed: int) -> nn.Module:
    """The model in a folder or file, or from a factory, without what is declared about it."""
    kind, path = kind_of(spec), Path(spec)
    if kind == "folder":
        if data is not None:
            _check_fits(path, data)
        return load_folder(path)
    if kind == "factory":
        with seeded(seed, "weights", spec):
            return call_factory(spec)
    if not path.is_file():
        raise _missing(spec)
    if kind == "onnx":
        return OnnxModel(path, None if data is None else len(data.classes))
    return load_torchscript(path)


def _build(spec: str, data: Dataset | None, pretrained: bool, normalize: MeanStd | None, seed: int) -> nn.Module:
    if data is None:
        raise InputError(
            f"model '{spec}' is built for the classes, channels and size of some images: give the data as well, or use "
            "build_model"
        )
    return build_model(
        spec, classes=len(data.classes), channels=data.channels, image_size=data.image_size[0],
        pretrained=pretrained, normalize=normalize, seed=seed,
    )  # fmt: skip


def _require_name(spec: str) -> None:
    """Raise `InputError` for a path that is not a model."""
    path = Path(spec)
    if path.is_file() and ("/" in spec or path.suffix):
        raise InputError(f"model {spec} cannot be read as a model: give file.py:factory, and its --weights")
    if "/" in spec or path.suffix in (".py", ".safetensors", *TORCHSCRIPT, *ONNX):
        raise _missing(spec)


def _missing(spec: str) -> InputError:
    return InputError(
        f"model '{spec}' is not there: give a timm name, file.py:factory, a TorchScript or ONNX file, "
        "or a folder written by a training"
    )


def _check_fits(folder: Path, data: Dataset) -> None:
    """Raise `InputError` unless the model in `folder` was trained on images and classes like those of `data`."""
    kept, size = read_description(folder).spec, data.image_size[0]
    if (kept.channels, kept.image_size, len(kept.class_names)) != (data.channels, size, len(data.classes)):
        raise InputError(
            f"{folder} was trained on {kept.image_size}×{kept.image_size} images with {kept.channels} channel(s) and "
            f"{len(kept.class_names)} classes, the data has {size}×{size}, {data.channels} and "
            f"{len(data.classes)}: choose the data it was trained for"
        )
    if kept.class_names != data.classes and sorted(kept.class_names) == sorted(data.classes):
        raise InputError(
            f"{folder} knows its classes in another order ({', '.join(kept.class_names)}) than the data "
            f"({', '.join(data.classes)}): its labels would be swapped, load the data that it was trained for"
        )
