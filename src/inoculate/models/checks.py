"""Common mistakes in how a model is used, found on a few images before anything is measured or trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.core.calls import call, labels_or_outputs, predicted_classes, pure_calls
from inoculate.core.copying import copy_module
from inoculate.core.errors import InputError, one_line
from inoculate.core.modes import device_of, dtype_for, frozen
from inoculate.data.dataset import Dataset
from inoculate.models.class_findings import class_order
from inoculate.models.findings import (
    Finding,
    batch_dependence,
    constant,
    labels_only,
    names_differ,
    output_kind,
    output_type,
    preprocessing,
    randomness,
    selected_outputs,
    training_mode,
    zero_gradient,
)
from inoculate.models.loading.onnx import onnx_findings
from inoculate.models.unmeasurable import not_finite, require_known_labels, require_output_per_class

INSPECTED_IMAGES = 64
GRADIENTS = 8  # images
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
    found = training_mode(model) + selected_outputs(model) + names_differ(model, data.classes)
    with without_side_effects(model, device):
        if not labels_or_outputs(model, x[:1]).is_floating_point():
            return found + _inspect_labels(model, x, y, data)
        logits = _logits(model, x, y, classes)
        finite = logits.isfinite().all(dim=1)  # the images that are not are reported after all have been measured
        x, y, logits = x[finite], y[finite], logits[finite]
        found += onnx_findings(model) + output_type(model) + output_kind(model, logits)
        random = randomness(logits, _logits(model, x, y, classes))
        found += random or batch_dependence(logits[:4], _one_at_a_time(model, x[:4]))
        found += constant(logits) or (zero_gradient(logits, y, _gradients(model, x, y)) if not random else [])
        if len(x) >= MIN_IMAGES:
            predicted = logits.argmax(dim=1)
            found += preprocessing(model, x, y, predicted, classes) or class_order(predicted, y, data.classes)
    return found


def _inspect_labels(model: nn.Module, x: Tensor, y: Tensor, data: Dataset) -> list[Finding]:
    """What looks wrong with a model that gives labels only."""
    labels, again = (predicted_classes(model, x) for _ in range(2))
    require_known_labels(labels, len(data.classes))
    found = labels_only(labels, again)
    if len(x) >= MIN_IMAGES:
        found += preprocessing(model, x, y, labels, len(data.classes)) or class_order(labels, y, data.classes)
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

    This is tried on a copy, in train mode, with at most all images of the data.
    """
    check_trainable(model)
    if other := {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}:
        raise InputError(
            f"the network has parameters of {', '.join(map(str, other))}, and training is done in float32: "
            "let its function return model.float()"
        )
    device = device_of(model)
    batch = data.subset(range(min(batch_size, len(data))))
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


def _logits(model: nn.Module, x: Tensor, y: Tensor, classes: int) -> Tensor:
    """The model's logits, B×`classes` in fp32; raises `InputError` where its outputs are anything else."""
    out = call(model, x)
    require_output_per_class(model, out, y, classes)
    out = out.float()
    if not out.isfinite().all(dim=1).any():  # where only some are not, these count as errors
        raise not_finite(out)
    return out


def _one_at_a_time(model: nn.Module, x: Tensor) -> Tensor | None:
    """The logits of a few images, each in a batch of its own; None for a model that takes no batch of one image."""
    try:
        return torch.cat([call(model, image[None]).float() for image in x])
    except InputError:
        return None


def _gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor | None:
    """The gradients of cross-entropy in a few of the images; None where there are none."""
    images = x[:GRADIENTS].clone().requires_grad_()
    try:
        with torch.enable_grad():
            loss = F.cross_entropy(call(model, images).float(), y[:GRADIENTS], reduction="sum")
            (gradient,) = torch.autograd.grad(loss, images, allow_unused=True)
    except Exception:  # not differentiable: each attack that needs a gradient says so
        return None
    return gradient


@contextmanager
def without_side_effects(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model frozen, without gradients; its buffers and the global random state are restored after."""
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with frozen(model), torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for name, buffer in model.named_buffers():
                if not torch.equal(buffer, kept[name]):
                    buffer.copy_(kept[name])
