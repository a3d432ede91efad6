"""Outputs of a model that cannot be measured: not one per class of the data, or none that is finite."""

from __future__ import annotations

from torch import Tensor, nn

from inoculate.core.calls import behaviour, single_output
from inoculate.core.errors import InputError


def require_output_per_class(model: nn.Module, outputs: Tensor, y: Tensor, classes: int) -> None:
    """Raise `InputError` unless the outputs of `model` for images of classes `y` (B) are B×`classes`.

    An output for the background, or one number for two classes, is recognised, and the error says how to declare it.
    """
    if outputs.ndim == 2 and outputs.shape[1] == classes:
        return
    if outputs.ndim == 1 or (outputs.shape[1] == 1 and classes == 2):
        raise single_output(outputs)
    if outputs.shape[1] == classes + 1 and classes > 1:
        raise _background(outputs, y, classes)
    raise InputError(
        f"the model knows {outputs.shape[1]} classes and the data has {classes}{behaviour(model).form}: "
        "give the data it was trained for, or a model with an output per class of the data "
        "(match_classes matches them by name)"
    )


def require_known_labels(labels: Tensor, classes: int) -> None:
    """Raise `InputError` unless all labels (B) of a model are class numbers of the data."""
    if not len(labels) or (int(labels.min()) >= 0 and int(labels.max()) < classes):
        return
    wrong = int(labels.max()) if int(labels.max()) >= classes else int(labels.min())
    hint = "; if it counts from 1, subtract 1" if wrong == classes and int(labels.min()) > 0 else ""
    raise InputError(
        f"the model gives the label {wrong} and the data has {classes} classes, 0 to {classes - 1}: give the data it "
        f"was trained for, or let it return class numbers of the data{hint}"
    )


def not_finite(outputs: Tensor) -> InputError:
    """The error for outputs (N×K) of which none is finite in all its numbers."""
    cause = "check its weights and that it takes pixels in [0, 1]"
    sums = outputs.exp().sum(dim=1)
    if bool(((sums - 1).abs() < 1e-2).all()):
        cause = (
            "they are logarithms of probabilities, some 0: let it use log_softmax, or declare "
            "--outputs log-probabilities, in Python load_model(model, outputs='log-probabilities')"
        )
    return InputError(f"the model gives outputs that are not finite on all of {len(outputs)} clean images: {cause}")


def _background(outputs: Tensor, y: Tensor, classes: int) -> InputError:
    """The error for one output too many; it says how many images are right without the first or the last one."""
    right = {
        "background-first": float((outputs[:, 1:].argmax(dim=1) == y).float().mean()),
        "background-last": float((outputs[:, :-1].argmax(dim=1) == y).float().mean()),
    }
    best, other = sorted(right, key=lambda name: -right[name])
    return InputError(
        f"the model knows {classes + 1} classes and the data has {classes}: if one is for the background, declare "
        f"--outputs {best}, in Python load_model(model, outputs='{best}') (right on {right[best]:.0%} of {len(y)} "
        f"images, with {other} on {right[other]:.0%}); else name the outputs with --class-names"
    )
