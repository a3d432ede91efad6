"""Variants of a network: what deployment makes of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from inoculate.core.calls import call
from inoculate.core.copying import copy_module
from inoculate.core.errors import InputError, one_line
from inoculate.core.modes import device_of, dtype_for, frozen
from inoculate.models.acceleration.compiling import uncompiled
from inoculate.models.bpda import BPDA
from inoculate.models.export.files import SUFFIXES, WRITERS, LogitsOnly, read_back
from inoculate.models.loading.load import ModelLike
from inoculate.models.loading.onnx import OnnxModel
from inoculate.models.loading.specs import kind_of
from inoculate.models.onnx.module import OnnxModule

IN_TORCH = ("fp32", "bf16")
KNOWN = f"{', '.join((*IN_TORCH, *WRITERS))} and pruned:SHARE"
_PRUNED = re.compile(r"pruned:(0?\.\d+)")
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def by_name(variants: Sequence[str] | Mapping[str, ModelLike]) -> dict[str, ModelLike]:
    """The variants by their names in rows, each the name of a known variant, a model SPEC, or a model.

    Raises `InputError` for fewer than two, for one that is given twice, and for a name that is none.
    """
    if isinstance(variants, str) or not isinstance(variants, Sequence | Mapping):
        raise InputError(f"variants {variants!r} are no list: give one, such as ['fp32', 'int8']")
    pairs = variants.items() if isinstance(variants, Mapping) else ((str(each), each) for each in variants)
    found: dict[str, ModelLike] = dict(pairs)
    if len(found) < len(variants):
        raise InputError("a variant is given twice: name each one once")
    if len(found) < 2:
        raise InputError("variants are compared with each other: give at least two, such as fp32 and int8")
    for each in found.values():
        if not isinstance(variants, Mapping) and not isinstance(each, str | Path):
            raise InputError(f"variant {type(each).__name__} has no name: give a mapping from names to models")
        if isinstance(each, str) and not is_known(each) and (kind_of(each) == "name" or each.startswith("pruned:")):
            raise InputError(f"variant '{each}' is unknown: use {KNOWN} from 0 to 1, or the file of a network")
    return found


def is_known(variant: ModelLike) -> bool:
    """Whether a variant is made from the network, instead of being a model itself."""
    if not isinstance(variant, str):
        return False
    pruned = _PRUNED.fullmatch(variant)
    return variant in (*IN_TORCH, *WRITERS) or (pruned is not None and float(pruned[1]) > 0)


def build_variant(name: str, network: nn.Module, images: Tensor, folder: Path) -> nn.Module:
    """A known variant of `network` (float images in [0, 1], B×C×H×W → logits); the network is left as it was.

    Args:
        name: `fp32`; `bf16`; `onnx` and `int8`, which onnxruntime runs on the CPU; `torchscript`; `pruned:0.5`, in
            which the smaller half, by magnitude, of the weights of all convolutions and linear layers is 0.
        network: the original.
        images: N×C×H×W in [0, 1], which calibrate `int8` and give the others their shape.
        folder: where the files of `onnx`, `int8` and `torchscript` are written.

    Raises `InputError` where the network has no such variant.
    """
    if name in WRITERS:
        if name == "onnx" and isinstance(network, OnnxModel):
            return OnnxModel(network.path, convert=False)
        path = folder / f"{name}{SUFFIXES[name]}"
        return _for(name, lambda: _written(name, network, path, images))
    if isinstance(network, OnnxModel) and network.network is None:
        raise InputError(
            f"model {network.path} is run by onnxruntime, because {network.obstacle}: there is no variant {name}, only "
            "onnx and int8"
        )
    if name == "fp32" and all(each.dtype is torch.float32 for each in _floats(network)):
        return network
    if not any(True for _ in _floats(network)):
        raise InputError("the network has no weights in torch that could be changed: leave this variant out")
    copy = _for(name, lambda: copy_module(uncompiled(network)))
    if parts := _PRUNED.fullmatch(name):
        return _prune(copy, float(parts[1]))
    return copy.to({"fp32": torch.float32, "bf16": torch.bfloat16}[name])


def with_gradients(model: nn.Module, network: nn.Module, x: Tensor) -> tuple[nn.Module, str]:
    """A variant that can be attacked by gradients, and whose they are: "" for its own, else what stands for them.

    A variant through which no gradient reaches the images `x` (B×C×H×W) keeps its outputs and gets the gradients of
    `network` (BPDA, Athalye et al. 2018a). Where that has none either, it stays as it is.
    """
    if reaches_pixels(model, x):
        return model, ""
    if not reaches_pixels(network, x):
        return model, "none"
    return BPDA(LogitsOnly(model), LogitsOnly(network)).eval(), "of the original network (BPDA)"


def reaches_pixels(model: nn.Module, x: Tensor) -> bool:
    """Whether the gradient of the logits in some of the images `x` (B×C×H×W in [0, 1]) is a number other than 0."""
    images = x.to(device_of(model), dtype_for(model)).detach().requires_grad_()
    with suppress(InputError, RuntimeError, TypeError, NotImplementedError), frozen(model):
        logits = call(model, images).float()
        weights = torch.arange(1, logits.shape[-1] + 1, device=logits.device)
        (gradient,) = torch.autograd.grad((logits * weights).sum(), images, allow_unused=True)
        return gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any())
    return False


def _written(name: str, network: nn.Module, path: Path, images: Tensor) -> nn.Module:
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[name](network, path, images)
    return read_back(path, images[:3])


def _prune(model: nn.Module, share: float) -> nn.Module:
    """`model` with this share of the weights of all its layers set to 0, the smallest in magnitude; in place."""
    weights = list(_weights(model))
    if not weights:
        raise InputError("the network has no convolution and no linear layer to prune: leave pruned out")
    model.to(memory_format=torch.contiguous_format)  # torch counts the weights in one flat view of each
    prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=share)
    for module, name in weights:
        prune.remove(module, name)  # type: ignore[no-untyped-call]
    return model


def _weights(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            product = isinstance(module, OnnxModule) and parameter.ndim == 2
            if product or (isinstance(module, _WEIGHTED) and name == "weight"):
                yield module, name


def _for(name: str, make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` makes, its `InputError` with the variant's name in front."""
    try:
        return make()
    except InputError as error:
        raise InputError(f"variant {name}: {error}") from error
    except Exception as error:  # a lock, an open file, a function
        raise InputError(f"variant {name}: the network cannot be copied ({one_line(error)}): leave it out") from error


def _floats(model: nn.Module) -> Iterator[Tensor]:
    return (each for each in model.parameters() if each.is_floating_point())
