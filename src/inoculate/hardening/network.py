"""The network to harden: where it comes from, and whether it is trained."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from torch import nn

from inoculate.core.errors import InputError
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import measure_clean
from inoculate.hardening.options import HardeningOptions
from inoculate.models.classifier import prepare
from inoculate.models.loading.checkpoints import ModelSpec, read_description
from inoculate.models.loading.load import ModelLike, load_model
from inoculate.models.loading.named import build_with_weights
from inoculate.models.loading.network import Network, parse_declared, wrap_copy
from inoculate.models.loading.specs import kind_of
from inoculate.models.normalize import check_channels

TRAINED_IMAGES, TRAINED_MARGIN = 256, 0.2  # of a trained network the balanced accuracy exceeds chance by the margin


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


def is_trained(model: nn.Module, images: Dataset) -> bool:
    """Whether the balanced accuracy of `model` on some of the images is clearly above chance."""
    sample = images.limit(min(TRAINED_IMAGES, len(images)), seed=0)
    right = measure_clean(prepare(model, sample, precision="exact"), sample).right.float()
    classes = set(sample.labels.tolist())
    balanced = sum(float(right[sample.labels == each].mean()) for each in classes) / len(classes)
    return balanced > 1 / len(classes) + TRAINED_MARGIN


def _from_module(module: nn.Module, images: Dataset, options: HardeningOptions) -> Network:
    if options.pretrained or options.weights is not None or options.stem != "imagenet":
        raise InputError("the model is a module with its own weights: leave out weights, pretrained and stem")
    if mean_std := parse_declared(options.declared).normalize:
        check_channels(mean_std, images.channels)
    network = wrap_copy(module, options.declared)
    if options.device is not None:
        network = network.to(options.device)
    return Network(network, type(module).__name__, declared=options.declared)


def _check_spec(spec: str, options: HardeningOptions) -> None:
    kind = kind_of(spec)
    if options.pretrained and options.weights is not None:
        raise InputError(f"pretrained and weights {options.weights} are two sets of weights: leave one out")
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
    if mean_std := parse_declared(options.declared).normalize:
        check_channels(mean_std, images.channels)
        spec = replace(spec, mean=mean_std[0], std=mean_std[1])
    if options.weights is None:
        network = spec.build(seed=options.seed, pretrained=options.pretrained)
    else:  # a normalisation that nobody declared is that of the weights, not of these images
        spec = spec if mean_std else replace(spec, mean=None, std=None)
        network, spec = build_with_weights(spec, str(options.weights), seed=options.seed)
    return Network(network.to(options.device or "cpu").eval(), name, spec)
