"""Images and labels as people hold them, converted to what a `Dataset` stores: uint8 pixels and int64 class numbers.

A conversion must be exact. What is ambiguous is refused: a number measured with wrong preprocessing is worse than none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inoculate.core.errors import InputError, suggest

FLOATS_CONVERTED = "float images in [0, 1] were converted to 8 bits"
FROM_ONE = "no image has label 0 (if the labels are numbered from 1, subtract 1)"
ONE_HOT_CONVERTED = "one-hot labels were converted to class numbers"
_TOLERANCE = 1 / 512  # of 8-bit values: half a step of bfloat16 below 1
_ROWS = 1024  # images converted at a time
_IMAGE_DIMENSIONS = 4  # N×C×H×W
_BYTES = 8  # of the largest numbers that torch takes
MOST_CLASSES = 1_000_000  # of unnamed classes; a larger label is a mistake


def uint8_images(images: Any, name: str, first: int = 0) -> tuple[Tensor, tuple[str, ...]]:
    """Images as uint8 N×C×H×W in 0..255, and notes on what was converted.

    images: a tensor or array, N×C×H×W with C 1 or 3; uint8 in 0..255, or floats in [0, 1] that are 8-bit values within
    1/512. name: of the data, for errors; first: number of the first image in them. Raises `InputError` for others.
    """
    images = _dense_tensor(images, name)
    _check_image_shape(images, name)
    if images.dtype == torch.uint8:
        return images, ()
    if not images.is_floating_point():
        raise InputError(
            f"{name}: images must be uint8 in 0..255 or floats in [0, 1], got {images.dtype} with values from "
            f"{int(images.min())} to {int(images.max())}: for 8-bit values use images.to(torch.uint8)"
        )
    low, high = (float(value) for value in torch.aminmax(images.detach().float()))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{name}: the images hold NaN or infinity: repair them")
    if low < 0 or high > 1:
        raise InputError(f"{name}: float images must lie in [0, 1], got values from {low:.4g} to {high:.4g}: "
                         + _range_advice(low, high))  # fmt: skip
    parts = [_exact_uint8(part, name, first + start) for start, part in _chunks(images.detach())]
    return torch.cat(parts), (FLOATS_CONVERTED,)


def class_numbers(
    labels: Any, images: int, name: str, classes: Sequence[str] | None = None
) -> tuple[Tensor, int | None]:
    """Labels as int64 class numbers ≥ 0, and K if they were one-hot.

    labels: one per image; integers, whole numbers of a float type, names out of `classes`, or one-hot rows N×K. Raises
    `InputError` naming the first image whose label is something else.
    """
    labels, columns = _label_tensor(labels, name, classes), None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    elif labels.ndim == 2 and len(labels) == images:
        columns, labels = labels.shape[1], _from_one_hot(labels, name)
    if labels.ndim != 1 or len(labels) != images:
        raise InputError(f"{name}: {images} images need {images} labels in one row, got shape {tuple(labels.shape)}")
    if labels.is_floating_point():
        wrong = ~labels.isfinite() | (labels != labels.round())
        _refuse(wrong, labels, name, "a whole number: use class numbers 0..K-1")
    _refuse(labels < 0, labels, name, "0 or more: drop unlabelled images first")
    return labels.long(), columns


def class_names(labels: Tensor, classes: Sequence[str] | None, columns: int | None, name: str) -> tuple[str, ...]:
    """The names of all classes: `classes`, else "0", "1", … for the `columns` of one-hot labels or up to the largest.

    Raises `InputError` if labels lie outside. Unnamed labels that leave out as many classes as are present look shifted
    (100 to 109, say) and are refused.
    """
    if classes is not None and columns not in (None, len(classes)):
        raise InputError(f"{name}: {len(classes)} classes are named, but the one-hot labels have {columns} columns")
    if classes is None and columns is None:
        columns = _number_of_classes(labels, name)
    names = tuple(map(str, range(columns or 0) if classes is None else classes))
    if len(names) < 2:
        raise InputError(f"{name}: a classifier needs at least 2 classes, got {len(names)}")
    check_range(labels, len(names), name, f"the {len(names)} classes")
    return names


def check_range(labels: Tensor, classes: int, name: str, which: str) -> None:
    """Raise `InputError` naming the first of the `labels` (N, int64) outside 0..K-1; `which` says what these are."""
    wrong = (labels < 0) | (labels >= classes)
    if bool(wrong.any()):
        from_one = int(labels.min()) == 1 and int(labels.max()) == classes
        advice = f"; they are numbered from 1 to {classes}: subtract 1" if from_one else ""
        _refuse(wrong, labels, name, f"in 0..{classes - 1}, {which}{advice}")


def _number_of_classes(labels: Tensor, name: str) -> int:
    """The number of unnamed classes: one more than the largest label. Raises `InputError` where that looks wrong."""
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest > 1 and smallest >= len(np.unique(labels.numpy())):
        raise InputError(
            f"{name}: label {int(labels[0])} of image 0 looks shifted, for labels run from {smallest} to {largest}:"
            " number the classes from 0, or name all of them with Dataset.from_tensors(images, labels, classes)"
        )
    _refuse(labels >= MOST_CLASSES, labels, name, f"below {MOST_CLASSES}: number the classes 0..K-1")
    return largest + 1


def _dense_tensor(images: Any, name: str) -> Tensor:
    """Images as a tensor of real numbers that has its values."""
    if isinstance(images, np.ndarray) and images.dtype.kind in "biuf" and images.dtype.itemsize <= _BYTES:
        images = torch.from_numpy(images.astype(images.dtype.newbyteorder("="), copy=False))
    if isinstance(images, np.ndarray) or (isinstance(images, Tensor) and images.is_complex()):
        raise InputError(
            f"{name}: images must be uint8 in 0..255 or floats in [0, 1], got {images.dtype}: convert them"
        )
    if not isinstance(images, Tensor):
        raise InputError(f"{name}: images must be a tensor or an array, got {type(images).__name__}: stack them")
    if images.is_meta or images.layout != torch.strided:
        raise InputError(f"{name}: images must be a dense tensor with values, got {images.layout}, {images.device}")
    return images


def _check_image_shape(images: Tensor, name: str) -> None:
    if images.ndim != _IMAGE_DIMENSIONS:
        hint = ": for grey images use images.unsqueeze(1)" if images.ndim == _IMAGE_DIMENSIONS - 1 else ""
        raise InputError(f"{name}: images must be N×C×H×W (4 dimensions), got shape {tuple(images.shape)}{hint}")
    if 0 in images.shape:
        raise InputError(f"{name}: there are no images, got shape {tuple(images.shape)}")
    if images.shape[1] not in (1, 3):
        hint = ": use images.permute(0, 3, 1, 2)" if images.shape[3] in (1, 3) else ""
        raise InputError(f"{name}: images must have 1 or 3 channels (N×C×H×W), got {images.shape[1]}{hint}")


def _range_advice(low: float, high: float) -> str:
    if low >= 0:
        return "for 8-bit values use images.round().to(torch.uint8), else divide by the largest possible value"
    return (
        "they look normalised; remove the normalisation from the data and put it into the model "
        "(load_model(…, normalize=…), or a first layer)"
    )


def _chunks(images: Tensor) -> list[tuple[int, Tensor]]:
    return [(start, images[start : start + _ROWS]) for start in range(0, len(images), _ROWS)]


def _exact_uint8(images: Tensor, name: str, first: int) -> Tensor:
    scaled = images.float() * 255
    rounded = scaled.round()
    inexact = ((scaled - rounded).abs() > _TOLERANCE * 255).flatten(1).any(dim=1)
    if bool(inexact.any()):
        row = int(inexact.nonzero()[0])
        low, high = torch.aminmax(images[row])
        raise InputError(
            f"{name}: image {first + row} is not made of 8-bit values (floats from {float(low):.4g} to "
            f"{float(high):.4g}): round them with (images * 255).round().to(torch.uint8), after every resizing"
        )
    return rounded.to(torch.uint8)


def _label_tensor(labels: Any, name: str, classes: Sequence[str] | None) -> Tensor:
    try:
        held = labels if isinstance(labels, Tensor | list | tuple) else np.array(labels)
        if isinstance(held, np.ndarray) and not (held.dtype.isnative and held.dtype.kind in "biufc"):
            held = held.tolist()  # objects, text, and the other byte order, which torch does not take
        if isinstance(held, list | tuple) and held and all(isinstance(label, str) for label in held):
            return _from_texts(held, name, classes)
        tensor = torch.as_tensor(held)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: labels must be integers, one per image: use class numbers 0..K-1") from error
    if tensor.is_complex() or (tensor.dtype == torch.bool and tensor.ndim != 2):
        raise InputError(f"{name}: labels must be integers, got {tensor.dtype}: use labels.long()")
    tensor = tensor.detach().cpu()
    return tensor if tensor.is_floating_point() else tensor.long()  # few operations take all unsigned types


def _from_texts(labels: Sequence[str], name: str, classes: Sequence[str] | None) -> Tensor:
    if classes is None:
        raise InputError(
            f"{name}: labels must be integers, and label {labels[0]!r} of image 0 is text: use class numbers 0..K-1, "
            "or name the classes in their order with Dataset.from_tensors(images, labels, classes)"
        )
    numbers = {each: number for number, each in enumerate(map(str, classes))}
    unknown = next((row for row, label in enumerate(labels) if label not in numbers), None)
    if unknown is not None:
        raise InputError(
            f"{name}: label {labels[unknown]!r} of image {unknown} is not one of the {len(numbers)} classes: "
            + suggest(labels[unknown], list(numbers)[:10])
        )
    return torch.tensor([numbers[label] for label in labels])


def _from_one_hot(labels: Tensor, name: str) -> Tensor:
    one_hot = ((labels == 0) | (labels == 1)).all(dim=1) & (labels.sum(dim=1) == 1)
    if not bool(one_hot.all()):
        row = int((~one_hot).nonzero()[0])
        raise InputError(f"{name}: the label of image {row} is a row of {labels.shape[1]} values that is not one-hot: "
                         "use class numbers 0..K-1")  # fmt: skip
    return labels.argmax(dim=1)


def _refuse(wrong: Tensor, labels: Tensor, name: str, allowed: str) -> None:
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise InputError(f"{name}: label {labels[row].item():g} of image {row} must be {allowed}")
