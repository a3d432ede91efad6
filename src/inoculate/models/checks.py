"""Common mistakes in how a model is used, found on a few images before anything is measured or trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.core.calls import logits_of, pure_calls
from inoculate.core.copying import copy_module
from inoculate.core.errors import InputError, one_line
from inoculate.core.modes import device_of, dtype_for, frozen
from inoculate.data.dataset import Dataset
from inoculate.models.findings import (
    Finding,
    batch_dependence,
    class_order,
    output_type,
    preprocessing,
    probabilities,
    randomness,
    training_mode,
)
from inoculate.models.loading.onnx import onnx_findings

INSPECTED_IMAGES = 64
MIN_IMAGES = 32  # below, accuracies are not compared


def inspect_model(model: nn.Module, data: Dataset, *, seed: int = 0) -> list[Finding]:
    """What looks wrong with `model` on 64 images of `data`, of all classes, which `seed` decides.

    With fewer than 32, accuracies are not compared. The model, its buffers and the global random state are left as they
    were. Raises `InputError` where the model cannot be measured at all: it does not take the images, or does not give
    one logit per class.
    """
    sample, classes = data.limit(min(INSPECTED_IMAGES, len(data)), seed=seed), len(data.classes)
    device = device_of(model)
    x = (sample.images.to(torch.float32) / 255).to(device, dtype_for(model))
    y = sample.labels.to(device)
    found = training_mode(model)
    with _without_side_effects(model, device):
        logits = _logits(model, x, classes)
        found += onnx_findings(model) + output_type(model) + probabilities(logits)
        found += randomness(logits, _logits(model, x, classes)) or batch_dependence(
            logits[:4], torch.cat([_logits(model, image[None], classes) for image in x[:4]])
        )
        if len(x) >= MIN_IMAGES:
            found += preprocessing(model, x, y, logits) or class_order(logits, y)
    return found


def model_warnings(model: nn.Module, data: Dataset, *, seed: int = 0, name: str = "") -> list[str]:
    """The findings of `inspect_model`, each in one line; there and in an `InputError` `name` says which model it is."""
    prefix = f"{name}: " if name else ""
    try:
        return [f"{prefix}{finding}" for finding in inspect_model(model, data, seed=seed)]
    except InputError as error:
        raise InputError(f"{prefix}{error}") from error


def check_trainable(model: nn.Module) -> None:
    """Raise `InputError` for a network without a parameter that requires a gradient."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("no parameter of the network requires a gradient, so nothing can be trained: unfreeze some")


def check_training(model: nn.Module, data: Dataset, batch_size: int) -> None:
    """Raise `InputError` if `model` cannot be trained on batches of this size, or no gradient reaches the images.

    This is tried on a copy, in train mode.
    """
    check_trainable(model)
    if other := {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}:
        raise InputError(
            f"the network has parameters of {', '.join(map(str, other))}, and training is done in float32: "
            "let its function return model.float()"
        )
    device = device_of(model)
    batch = data.subset(torch.arange(batch_size) % len(data))
    x, y = (batch.images.to(torch.float32) / 255).requires_grad_(), batch.labels
    network = _copy_for_training(model)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), pure_calls(network):
        try:
            logits = network(x.to(device, dtype_for(model)))
            F.cross_entropy(logits.float(), y.to(device)).backward()  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever the user's code raises
            raise InputError(
                f"the network cannot be trained on batches of {len(x)} images ({one_line(error)}): "
                "in train mode too it must return one logit per class, and BatchNorm needs several images"
            ) from error
    if x.grad is None:
        raise InputError(
            "no gradient of the network reaches the images, which adversarial training needs: "
            "look for a detach(), a round() or a no_grad() in its first layers"
        )


def _copy_for_training(model: nn.Module) -> nn.Module:
    try:
        return copy_module(model).train()
    except Exception as error:  # a lock, an open file
        raise InputError(
            f"the network cannot be copied ({one_line(error)}), which training needs: "
            "keep what is not a layer, a weight or a number out of it"
        ) from error


def _logits(model: nn.Module, x: Tensor, classes: int) -> Tensor:
    """The model's logits, B×`classes` in fp32; raises `InputError` where its outputs are anything else."""
    try:
        out = logits_of(model(x))
    except InputError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise InputError(
            f"the model does not take {'×'.join(map(str, x.shape[1:]))} images ({one_line(error)}): "
            "load the data at the model's image size and channels"
        ) from error
    if not isinstance(out, Tensor):
        raise InputError(f"the model returns {type(out).__name__}, not a tensor: let its forward return the logits")
    if classes == 2 and tuple(out.shape) in ((len(x),), (len(x), 1)):
        raise _single_output(out)
    if out.ndim != 2 or len(out) != len(x):
        raise InputError(
            f"the model gives outputs of shape {tuple(out.shape)} for {len(x)} images: it must give one logit per "
            f"class, {len(x)}×{classes}"
        )
    if out.shape[1] != classes:
        raise InputError(
            f"the model knows {out.shape[1]} classes and the data has {classes}: "
            "give the data it was trained for, or a model with an output per class of the data"
        )
    if not out.isfinite().all(dim=1).any():  # where only some are not, these count as errors
        raise InputError(
            f"the model gives outputs that are not finite on all of {len(x)} clean images: "
            "check its weights and that it takes pixels in [0, 1]"
        )
    return out.float()


def _single_output(out: Tensor) -> InputError:
    declared = "probabilities" if bool(((out >= 0) & (out <= 1)).all()) else "single-logit"
    return InputError(
        "the model gives a single number per image for two classes: "
        f"declare it with --outputs {declared}, in Python outputs='{declared}' (large for the second class)"
    )


@contextmanager
def _without_side_effects(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model frozen, without gradients; its buffers and the global random state are restored after."""
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with frozen(model), torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for name, buffer in model.named_buffers():
                if not torch.equal(buffer, kept[name]):
                    buffer.copy_(kept[name])
