"""The network to harden: where it comes from, whether it is trained, how it is saved and rebuilt."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from inoculate.core.errors import InputError, one_line
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import measure_clean
from inoculate.hardening.options import HardeningOptions
from inoculate.models.classifier import prepare
from inoculate.models.loading.checkpoints import (
    WEIGHTS,
    ModelSpec,
    load_folder,
    load_weights,
    read_description,
    save_factory_weights,
    save_model,
    save_module_weights,
)
from inoculate.models.loading.load import ModelLike, load_model
from inoculate.models.loading.outputs import Declared
from inoculate.models.loading.specs import identity, kind_of
from inoculate.models.normalize import check_channels, parse_normalize
from inoculate.models.small_cnn import SMALL_CNN

TRAINED_IMAGES, TRAINED_MARGIN = 256, 0.2  # of a trained network the balanced accuracy exceeds chance by the margin


@dataclass(frozen=True, eq=False)
class Network:
    """A classifier in eval mode (float images in [0, 1] → logits), and how it is rebuilt.

    name: its name in rows. spec: how `build_model` makes it. factory: the SPEC of a function that makes it. A module of
    the user's has neither. declared: `outputs` and `normalize`, which say how `model` wraps what factory or user made.
    """

    model: nn.Module
    name: str
    spec: ModelSpec | None = None
    factory: str | None = None
    declared: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> Literal["built", "factory", "module"]:
        """How it is rebuilt: by `build_model`, by a function of the user's, or by the user."""
        return "built" if self.spec is not None else "module" if self.factory is None else "factory"

    @property
    def architecture(self) -> str:
        """Its name on a card."""
        return self.name if self.spec is None else self.spec.name

    @property
    def inner(self) -> nn.Module:
        """The network without the declared wrappers."""
        return _parsed(self.declared).unwrap(self.model)

    def save(self, folder: Path, **facts: Any) -> None:
        """Write weights, those of `inner`, and how to rebuild the network; `facts` (JSON values) are kept beside."""
        if self.spec is not None:
            save_model(folder, self.model, replace(self.spec, pretrained=False), **facts)
        elif self.factory is not None:
            save_factory_weights(folder, self.inner, self.factory, self.declared, **facts)
        else:
            save_module_weights(folder, self.inner, self.name, self.declared, **facts)


def load_network(model: ModelLike, images: Dataset, options: HardeningOptions) -> tuple[Network, bool | None]:
    """The network to harden for such images, and whether it comes trained (None: unknown).

    A module is copied. Raises `InputError` for a model that cannot be trained, and for options that do not apply to it.
    """
    if isinstance(model, nn.Module):
        return _from_module(model, images, options), None
    if not isinstance(model, str | os.PathLike):
        raise InputError(f"model is {type(model).__name__} and cannot be trained: give an nn.Module or a model SPEC")
    spec = str(model)
    _check_spec(spec, options)
    if kind_of(spec) == "name":
        return _from_name(spec, images, options), options.weights is not None
    weights = None if options.weights is None else Path(options.weights)
    loaded = load_model(
        spec, images, weights=weights, outputs=options.outputs, normalize=options.normalize, seed=options.seed
    )
    loaded = loaded.to(options.device or "cpu")
    if kind_of(spec) == "folder":
        return Network(loaded, spec, read_description(Path(spec)).spec), True
    return Network(loaded, spec, factory=spec, declared=options.declared), True if weights else None


def model_identity(model: ModelLike) -> str:
    """What tells this model from others: a SPEC and the content behind it, or a module's layers and weights."""
    if not isinstance(model, nn.Module):
        return identity(str(model))
    digest = hashlib.sha256(repr(model).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return f"{type(model).__name__} {digest.hexdigest()}"


def is_trained(model: nn.Module, images: Dataset) -> bool:
    """Whether the balanced accuracy of `model` on some of the images is clearly above chance."""
    sample = images.limit(min(TRAINED_IMAGES, len(images)), seed=0)
    right = measure_clean(prepare(model, sample, precision="exact"), sample).right.float()
    classes = set(sample.labels.tolist())
    balanced = sum(float(right[sample.labels == each].mean()) for each in classes) / len(classes)
    return balanced > 1 / len(classes) + TRAINED_MARGIN


def wrap_copy(module: nn.Module, declared: Mapping[str, str]) -> nn.Module:
    """A copy of a module of the user's in eval mode, as a classifier of images in [0, 1] that returns logits."""
    try:
        network = copy.deepcopy(module)
    except Exception as error:  # a lock, an open file, a tensor with a history
        raise InputError(
            f"the network cannot be copied ({one_line(error)}), which training needs: keep only layers, "
            "weights and plain values in it"
        ) from error
    return _parsed(declared).wrap(network).eval()


def _from_module(module: nn.Module, images: Dataset, options: HardeningOptions) -> Network:
    if options.pretrained or options.weights is not None or options.stem != "imagenet":
        raise InputError("the model is a module with its own weights: leave out weights, pretrained and stem")
    if mean_std := _parsed(options.declared).normalize:
        check_channels(mean_std, images.channels)
    network = wrap_copy(module, options.declared)
    if options.device is not None:
        network = network.to(options.device)
    return Network(network, type(module).__name__, declared=options.declared)


def _check_spec(spec: str, options: HardeningOptions) -> None:
    kind = kind_of(spec)
    if options.pretrained and options.weights is not None:
        raise InputError(f"pretrained and weights {options.weights} are two sets of weights: leave one out")
    if options.pretrained and spec == SMALL_CNN:
        raise InputError("small_cnn has no pretrained weights: leave pretrained out")
    if kind in ("torchscript", "onnx"):
        raise InputError(f"model {spec} is an exported file and cannot be trained: give file.py:factory and weights")
    if Path(spec).suffix == ".py":
        raise InputError(f"model {spec} is a file of functions: name the one that makes the network, {spec}:factory")
    if (options.pretrained or options.stem != "imagenet") and kind != "name":
        raise InputError(f"model {spec} has its own weights and stem: leave out pretrained and stem")
    if options.outputs != "logits" and kind == "name":
        raise InputError(f"model {spec} returns logits: leave outputs out")


def _from_name(name: str, images: Dataset, options: HardeningOptions) -> Network:
    spec = ModelSpec.fitting(name, images, options.stem, options.pretrained)
    if mean_std := _parsed(options.declared).normalize:
        check_channels(mean_std, images.channels)
        spec = replace(spec, mean=mean_std[0], std=mean_std[1])
    network = spec.build(seed=options.seed, pretrained=options.pretrained)
    if options.weights is not None:
        load_weights(Path(options.weights), network)
    return Network(network.to(options.device or "cpu").eval(), name, spec)


def reload_network(folder: Path, name: str, description: Mapping[str, Any], module: nn.Module | None) -> Network:
    """The network called `name` that `Network.save` wrote into `folder` with this description.

    `module`: for weights of a module of the user's, that module, built as before; it is copied.
    """
    declared = dict(description.get("declared", {}))
    if "module" in description:
        if module is None:
            raise InputError(
                f"{folder} holds weights of your own module {description['module']}: build it as before and give it as "
                "the second argument of Hardened.load"
            )
        network = Network(wrap_copy(module, declared), name, declared=declared)
        load_weights(folder / WEIGHTS, network.inner, description["sha256"])
        return network
    if "factory" in description:
        factory = str(description["factory"])
        model = load_model(factory, weights=folder / WEIGHTS, **declared)
        return Network(model, name, factory=factory, declared=declared)
    return Network(load_folder(folder), name, read_description(folder).spec)


def _parsed(declared: Mapping[str, str]) -> Declared:
    normalize = declared.get("normalize")
    mean_std = None if normalize is None else parse_normalize(normalize)
    return Declared(declared.get("outputs", "logits"), mean_std)
