"""From whatever names or computes a model to an `nn.Module`: images in [0, 1] to logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor, nn

from inoculate.core.errors import InputError
from inoculate.core.functions import modules_behind
from inoculate.core.modes import require_callable, set_eval
from inoculate.core.rng import seeded
from inoculate.data.dataset import Dataset
from inoculate.data.preprocessing import as_size, format_size
from inoculate.models.class_names import pretrained_classes, simplified
from inoculate.models.loading.checkpoints import ModelSpec, load_folder, read_description
from inoculate.models.loading.endpoint import Endpoint
from inoculate.models.loading.factories import call_factory
from inoculate.models.loading.fitting import load_into
from inoculate.models.loading.hub import load_hub
from inoculate.models.loading.named import build_with_weights
from inoculate.models.loading.onnx import OnnxModel
from inoculate.models.loading.outputs import Declared
from inoculate.models.loading.specs import ONNX, TORCHSCRIPT, kind_of
from inoculate.models.loading.torchscript import ScriptedModel, load_torchscript
from inoculate.models.loading.weights import TORCH_SUFFIXES, holds_state_dict, without_network
from inoculate.models.normalize import MeanStd, check_channels, parse_normalize

ModelLike: TypeAlias = nn.Module | Callable[[Tensor], Any] | str | Path


@torch.inference_mode(False)  # no gradient would pass through weights that are made under it
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
        spec: a name (see `build_model`), `hf-hub:owner/name` (timm), `hf:folder` or `hf:owner/name` (transformers),
            `package.module:factory`, `file.py:factory`, a folder written by a training, a TorchScript or an ONNX file,
            or `http://127.0.0.1:8000/predict`, the address of a server on this machine (see `Endpoint`).
            A factory is called without arguments and returns an `nn.Module`. Or a module, which is not copied, or a
            function, to be put behind `normalize` or `outputs`.
        data: supplies the number of classes, the channels and the size of the images. A name needs it; elsewhere
            it is checked against what the model was made for.
        weights: file to load: safetensors, or a state dict that `torch.save` wrote, plain or under a key, with or
            without prefixes; `file.pth:KEY` names one of several. Nothing else is unpickled. It fits as a whole or is
            refused. A normalisation in it is used.
        pretrained: download the weights of timm or torchvision.
        outputs: what the model gives: `logits`, `probabilities`, `log-probabilities`, `sigmoid` (one for each class),
            `single-logit` (for the second of two classes), `labels` (whole numbers are taken for labels without being
            declared), or logits with one more for the background that is left out,
            `background-first` or `background-last`.
        normalize: normalisation to put in front: (mean, std), or a text such as `imagenet` or `0.5/0.25`.
        seed: of random weights.

    Raises `InputError` for whatever cannot be found, imported or loaded.
    """
    mean_std = parse_normalize(normalize) if isinstance(normalize, str) else normalize
    declared = Declared(outputs, mean_std)
    if mean_std is not None and data is not None:
        check_channels(mean_std, data.channels)
    if isinstance(spec, str | Path):
        model, declared = _named(str(spec), data, weights, pretrained, declared, seed)
    else:
        model = as_module(spec)
    if weights is not None and not (isinstance(spec, str | Path) and kind_of(str(spec)) == "name"):
        classes = None if data is None else len(data.classes)
        declared = replace(declared, normalize=load_into(model, weights, classes=classes, declared=declared.normalize))
    return set_eval(declared.wrap(model))


def _named(
    spec: str, data: Dataset | None, weights: str | Path | None, pretrained: bool, declared: Declared, seed: int
) -> tuple[nn.Module, Declared]:
    """The model that a SPEC names, and what of the declaration it does not hold inside.

    Only a name of an architecture is given its weights here.
    """
    kind = kind_of(spec)
    if kind == "folder" and declared != Declared():
        raise InputError(f"{spec} has its normalisation inside and gives logits: leave normalize and outputs out")
    has_weights = kind == "endpoint" or (kind in ("torchscript", "onnx") and Path(spec).is_file())
    if has_weights and weights is not None:
        raise InputError(f"model {spec} has its own weights: leave the other weights out")
    if pretrained and weights is not None:
        raise InputError(f"pretrained and weights {weights} are two sets of weights: leave one out")
    if kind == "hub":
        return load_hub(spec, declared.normalize), replace(declared, normalize=None)
    if kind != "name":
        return _load(spec, data, seed), declared
    _require_name(spec)
    if data is None:
        raise InputError(
            f"model '{spec}' is built for the classes, channels and size of some images: give the data as well, or use "
            "build_model"
        )
    mean, std = declared.normalize or (None, None)
    classes = pretrained_classes(spec, data.classes) if pretrained else data.classes
    wanted = ModelSpec(spec, classes, data.channels, as_size(*data.image_size), mean=mean, std=std)
    if weights is not None:
        model = _with_weights(wanted, weights, seed)
    else:
        model = wanted.build(seed=seed, pretrained=pretrained)
    return model, replace(declared, normalize=None)


def _with_weights(wanted: ModelSpec, weights: str | Path, seed: int) -> nn.Module:
    """The network with weights from a file, whose head may have all the classes that the pretrained one has."""
    known = pretrained_classes(wanted.name, wanted.class_names)
    if len(known) > len(wanted.class_names):
        try:
            return build_with_weights(replace(wanted, class_names=known), weights, seed=seed)[0]
        except InputError:  # a head for the classes of the data
            pass
    return build_with_weights(wanted, weights, seed=seed)[0]


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
    require_callable(model)
    return FunctionModel(model)


class FunctionModel(nn.Module):
    """A function from images (B×C×H×W) to logits as a module; the modules that it runs are parts of it.

    It cannot be copied: the function would still run the original modules.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules_behind(function))

    def forward(self, x: Tensor) -> Any:
        return self.function(x)

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a function cannot be copied")


def _load(spec: str, data: Dataset | None, seed: int) -> nn.Module:
    """The model in a folder or file, or from a factory, without what is declared about it."""
    kind, path = kind_of(spec), Path(spec)
    if kind == "folder":
        if data is not None:
            _check_fits(path, data)
        return load_folder(path)
    if kind == "endpoint":
        return Endpoint(spec)
    if kind == "factory":
        with seeded(seed, "weights", spec):
            return call_factory(spec)
    if not path.is_file():
        raise _missing(spec)
    if kind == "onnx":
        return OnnxModel(path, None if data is None else len(data.classes))
    return load_torchscript(path)


def _require_name(spec: str) -> None:
    """Raise `InputError` for a path that is not a model."""
    path = Path(spec)
    if path.is_file() and (path.suffix == ".safetensors" or path.suffix in TORCH_SUFFIXES) and holds_state_dict(path):
        raise without_network(path)
    if path.is_file() and ("/" in spec or path.suffix):
        raise InputError(f"model {spec} cannot be read as a model: give file.py:factory, and its --weights")
    if "/" in spec or path.suffix in (".py", ".safetensors", *TORCH_SUFFIXES, *TORCHSCRIPT, *ONNX):
        raise _missing(spec)


def _missing(spec: str) -> InputError:
    return InputError(
        f"model '{spec}' is not there: give a timm name, file.py:factory, a TorchScript or ONNX file, "
        "or a folder written by a training"
    )


def _check_fits(folder: Path, data: Dataset) -> None:
    """Raise `InputError` unless the model in `folder` was trained on images and classes like those of `data`."""
    kept, size = read_description(folder).spec, as_size(*data.image_size)
    known = set(map(simplified, kept.class_names))
    fits = len(kept.class_names) == len(data.classes) or known.issuperset(map(simplified, data.classes))
    if (kept.channels, kept.image_size) != (data.channels, size) or not fits:
        raise InputError(
            f"{folder} was trained on {format_size(kept.image_size)} images with {kept.channels} channel(s) and "
            f"{len(kept.class_names)} classes, the data has {format_size(size)}, {data.channels} and "
            f"{len(data.classes)}: choose the data it was trained for"
        )
    names = [[simplified(name) for name in each] for each in (kept.class_names, data.classes)]
    if names[0] != names[1] and sorted(names[0]) == sorted(names[1]):
        raise InputError(
            f"{folder} knows its classes in another order ({', '.join(kept.class_names)}) than the data "
            f"({', '.join(data.classes)}): its labels would be swapped, load the data that it was trained for"
        )
