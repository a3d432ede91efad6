"""Which images a model needs: learnt from its SPEC before the images are read, or from the module itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from inoculate.artifacts.files import read_json
from inoculate.core.errors import InputError
from inoculate.core.modes import device_of, dtype_for
from inoculate.core.options import require_text
from inoculate.data.convert import with_shape
from inoculate.data.dataset import Dataset
from inoculate.data.preprocessing import AS_THEY_ARE, Preprocessing, as_size
from inoculate.models.checks import without_side_effects
from inoculate.models.loading.checkpoints import DESCRIPTION
from inoculate.models.loading.fitting import read_weights
from inoculate.models.loading.onnx import OnnxModel
from inoculate.models.loading.specs import expected_size, kind_of
from inoculate.models.normalize import parse_normalize
from inoculate.models.pretrained import TIMM_HUB, TRANSFORMERS, input_config

_CONVOLUTION = 4  # dimensions of its weight


def expected_preprocessing(
    spec: str,
    *,
    pretrained: bool = False,
    weights: str | os.PathLike[str] | None = None,
    normalize: str | None = None,
) -> Preprocessing:
    """How images are read for the model of a SPEC, as far as that and what is declared about it say it.

    Pretrained weights: the evaluation transform of the library that published them. A trained folder: how its training
    images were read. An ONNX file: image size and channels. `weights` of a named network: their channels. A
    normalisation of three channels: these.
    """
    require_text(model=spec)
    kind = kind_of(spec)
    declared = Preprocessing(channels=3 if normalize and len(parse_normalize(normalize)[0]) == 3 else None)
    if spec.startswith((TIMM_HUB, TRANSFORMERS)) or (pretrained and weights is None and kind == "name"):
        return _published(spec)
    if kind == "name":
        channels = None if weights is None else _channels_of(_shapes(weights))
        return Preprocessing(channels=channels).over(declared)
    if (size := expected_size(spec)) is None:
        return declared
    trained = read_json(Path(spec) / DESCRIPTION).get("reading", {}) if kind == "folder" else {}
    return Preprocessing(image_size=size[0], channels=size[1]).over(Preprocessing.from_spec(trained))


def fit_channels(data: Dataset, model: nn.Module, declared: Preprocessing = AS_THEY_ARE) -> Dataset:
    """`data` with the channels that the module needs, with a note where they differ; as they are if declared."""
    needed = data.channels if declared.channels is not None else needed_channels(model, data)
    if needed == data.channels:
        return data
    kinds = {1: "grey", 3: "RGB"}
    note = f"{kinds[data.channels]} images were read as {kinds[needed]}, for the model has {needed} input channel(s)"
    return replace(with_shape(data, Preprocessing(channels=needed)), notes=(*data.notes, note))


def needed_channels(model: nn.Module, data: Dataset) -> int:
    """1 or 3: the channels with which `model` takes images like those of `data`; theirs, if neither or nothing tells.

    Its first convolution decides where the model then takes the images: a normalisation for three channels also takes
    grey ones, without a word.
    """
    own, other = data.channels, 4 - data.channels
    stated = model.image_shape[0] if isinstance(model, OnnxModel) else _first_convolution(model)
    if stated == own:
        return own
    order = [other, own] if stated == other else [own, other]
    return next((channels for channels in order if _takes(model, channels, data.image_size)), own)


def _published(spec: str) -> Preprocessing:
    config = input_config(spec)
    if config is None:
        return Preprocessing()
    red, green, blue = (round(255 * each) for each in (config.mean * 3)[:3])
    border = config.crop_mode == "border"
    return Preprocessing(
        image_size=as_size(*config.image_size), channels=3 if len(config.mean) == 3 else None,
        crop=config.crop_fraction, crop_mode=config.crop_mode, interpolation=config.interpolation,  # type: ignore[arg-type]
        fill=(red, green, blue) if border else None,
    )  # fmt: skip


def _first_convolution(model: nn.Module) -> int | None:
    """Input channels of the first convolution, where they are 1 or 3."""
    for module in model.modules():
        kind = module.original_name if isinstance(module, torch.jit.ScriptModule) else type(module).__name__
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if "Conv2d" in kind and weight is not None:
            return int(weight.shape[1]) if weight.shape[1] in (1, 3) else None
    return None


def _takes(model: nn.Module, channels: int, size: tuple[int, int]) -> bool:
    device = device_of(model)
    image = torch.full((2, channels, *size), 0.5, device=device, dtype=dtype_for(model))
    try:
        with without_side_effects(model, device):
            model(image)
    except Exception:  # whatever the user's code raises
        return False
    return True


def _shapes(weights: str | os.PathLike[str]) -> list[tuple[int, ...]]:
    """The shapes of the tensors in a file of weights; none where it cannot be read, which loading it will say."""
    try:
        states = read_weights(Path(weights))
    except InputError:
        return []
    return [tuple(tensor.shape) for state in states for tensor in state.tensors.values()]


def _channels_of(shapes: Iterable[tuple[int, ...]]) -> int | None:
    """Input channels of a network with weights of these shapes.

    Only a first convolution has three. One may also be depthwise, in a network that has a first one for three.
    """
    inputs = {shape[1] for shape in shapes if len(shape) == _CONVOLUTION}
    return next((channels for channels in (3, 1) if channels in inputs), None)
