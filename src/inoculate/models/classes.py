"""Which output of a model stands for which class of the data."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Literal

from torch import Tensor, nn

from inoculate.core.calls import call, labels_or_outputs
from inoculate.core.errors import InputError
from inoculate.core.modes import device_of, dtype_for
from inoculate.core.options import require_one_of
from inoculate.core.pixels import to_float
from inoculate.data.dataset import Dataset
from inoculate.models.acceleration.fast import original
from inoculate.models.checks import without_side_effects
from inoculate.models.class_names import (
    ClassNames,
    OutputNames,
    are_placeholders,
    given_names,
    imagenet_names,
    stored_names,
)
from inoculate.models.select_outputs import SelectOutputs
from inoculate.models.unmeasurable import require_output_per_class

Counted = Literal["all", "subset"]
NAMED = 5  # classes that a message names
SAMPLE = 64  # images that decide about an output for the background
_WAY_ON = "name the outputs with --class-names FILE (class_names=...), or give the data that it was trained for"


def match_classes(
    model: nn.Module, data: Dataset, class_names: ClassNames | None = None, classes: Counted = "all"
) -> tuple[nn.Module, Dataset]:
    """Model and data whose classes are in the same order, matched by name; labels stay as they are.

    Names of outputs are, in this order, `class_names`, those that the model brings (a trained folder, timm,
    transformers, ONNX), and those of ImageNet where the number of outputs is that of one of its sets. They are compared
    with the names of the data's classes without case and separators, those of ImageNet by WordNet id too.

    Args:
        model: float images in [0, 1] (B×C×H×W) to logits (B×M).
        data: with K classes.
        class_names: M names in the order of the outputs, a mapping from index to name, or a file (see
            `read_class_names`).
        classes: where M > K, whether an image counts as right if the output of its class is the largest of `all`, the
            convention of ImageNet, or of the `subset` of K. With `all`, the data get M classes, their own first.

    Returns:
        Both as they are where nothing has to be changed, else a model that selects its outputs.

    Raises `InputError` where M ≠ K and a class of the data has no output, or it is not known which.
    """
    require_one_of(("all", "subset"), classes=classes)
    model = original(model)
    outputs = _count_outputs(model, data)
    if outputs is None and class_names is not None and _gives_labels(model, data):
        raise InputError("the model gives labels only, which no class names can be matched with: leave them out")
    if outputs is None or (outputs == 1 and len(data.classes) == 2):
        return model, data  # what looks at the model closer says what is wrong, or declared
    if class_names is not None:
        names: OutputNames | None = given_names(class_names, outputs)
    else:
        names = stored_names(model, outputs) or imagenet_names(outputs)
    found = [frozenset[int]()] * len(data.classes) if names is None else list(map(names.outputs_of, data.classes))
    if outputs == len(data.classes) and class_names is None and _is_unknown(found):
        return model, data  # taken to be in the same order
    if outputs == len(data.classes) + 1 and names is None:  # the error says whether one may be for the background
        some = data.limit(min(SAMPLE, len(data)))
        require_output_per_class(model, _ask(call, model, some), some.labels.cpu(), len(data.classes))
    if outputs < len(data.classes):
        raise _too_few(data, outputs, names)
    if names is None or not all(found):
        raise _unmatched(data, outputs, names, found)
    indices = _one_to_one(data, names, found)
    if indices == list(range(outputs)):
        return model, data
    return _selected(model, data, indices, names, classes)


def _count_outputs(model: nn.Module, data: Dataset) -> int | None:
    """The number of logits for an image of `data`; None where the model gives none."""
    try:
        logits = _ask(call, model, data.subset([0]))
    except InputError:  # which is raised again where the model is inspected
        return None
    return int(logits.shape[1]) if logits.ndim == 2 else None


def _gives_labels(model: nn.Module, data: Dataset) -> bool:
    try:
        return not _ask(labels_or_outputs, model, data.subset([0])).is_floating_point()
    except InputError:
        return False


def _ask(run: Callable[[nn.Module, Tensor], Tensor], model: nn.Module, data: Dataset) -> Tensor:
    """What `run` makes of all images, without side effects on the model."""
    device = device_of(model)
    x = to_float(data.images.to(device)).to(dtype_for(model))
    with without_side_effects(model, device):
        return run(model, x).cpu()


def _is_unknown(found: Sequence[frozenset[int]]) -> bool:
    """Whether names say nothing about the order: some are missing, and those found have their place already."""
    return not all(found) and all(place in outputs for place, outputs in enumerate(found) if outputs)


def _one_to_one(data: Dataset, names: OutputNames, found: Sequence[frozenset[int]]) -> list[int]:
    """The output of each class. Raises `InputError` where a name means several outputs, or two classes one."""
    taken: dict[int, str] = {}
    for name, outputs in zip(data.classes, found, strict=True):
        if len(outputs) > 1:
            several = " or ".join(f"{index} ({names.names[index]})" for index in sorted(outputs))
            raise InputError(
                f"class '{name}' of {data.name} may be output {several}: call it by its WordNet id or its full name"
            )
        (index,) = outputs
        if index in taken:
            raise InputError(
                f"classes '{taken[index]}' and '{name}' of {data.name} are both output {index} ({names.names[index]}): "
                "put their images together, or rename one"
            )
        taken[index] = name
    return list(taken)


def _selected(
    model: nn.Module, data: Dataset, indices: list[int], names: OutputNames, classes: Counted
) -> tuple[nn.Module, Dataset]:
    outputs, by = len(names.names), f"matched by {names.origin}"
    if len(indices) == outputs:
        moved = ", ".join(f"{place}→{index}" for place, index in enumerate(indices) if place != index)
        what = f"the model's outputs were put in the order of the data's classes, {by} ({moved[:60]})"
        return SelectOutputs(model, indices, data.classes, what, "name them otherwise with --class-names FILE"), data
    what = f"{len(indices)} of the model's {outputs} outputs are the classes of {data.name}, {by}"
    if classes == "subset":
        what += f"; a prediction is the largest of these {len(indices)}"
        cure = f"--classes all (classes='all') counts the largest of all {outputs}"
        return SelectOutputs(model, indices, data.classes, what, cure), data
    what += f"; a prediction is the largest of all {outputs}"
    taken = set(indices)
    rest = [index for index in range(outputs) if index not in taken]
    extended = _with_classes(data, (*data.classes, *(names.names[index] for index in rest)))
    cure = f"--classes subset (classes='subset') counts the largest of these {len(indices)}"
    return SelectOutputs(model, [*indices, *rest], extended.classes, what, cure), extended


def _with_classes(data: Dataset, classes: tuple[str, ...]) -> Dataset:
    digest = blake2b(f"{data.digest} {json.dumps(classes)}".encode(), digest_size=16).hexdigest()
    return replace(data, classes=classes, digest=digest)


def _too_few(data: Dataset, outputs: int, names: OutputNames | None) -> InputError:
    wrong = (data.labels >= outputs).nonzero().flatten()
    first = f"label {int(data.labels[wrong[0]])} of image {int(wrong[0])} has no output; " if len(wrong) else ""
    from_one = (
        are_placeholders(data.classes) and outputs == len(data.classes) - 1 and not bool((data.labels == 0).any())
    )
    if from_one:
        return InputError(
            f"the model knows {outputs} classes and the labels of {data.name} run from 1 to {outputs}: number them "
            "from 0, labels - 1"
        )
    known = f" ({_shortened(names.names)})" if names is not None else ""
    return InputError(
        f"the model knows {outputs} classes{known} and the data has {len(data.classes)}: {first}give only images of "
        "the classes that it knows, or a model with an output per class of the data"
    )


def _unmatched(data: Dataset, outputs: int, names: OutputNames | None, found: Sequence[frozenset[int]]) -> InputError:
    what = f"the model knows {outputs} classes and the data has {len(data.classes)}"
    if outputs == len(data.classes):
        what = f"the outputs are named otherwise than the classes of {data.name}"
    if names is None or not any(found):
        stored = f"; no name of {data.name} ({_shortened(data.classes)}) is one of {names.origin}" if names else ""
        return InputError(f"{what}{stored}: {_WAY_ON}")
    missing = [name for name, outputs_ in zip(data.classes, found, strict=True) if not outputs_]
    return InputError(f"{what}; {names.origin} have no {_shortened(missing)}: rename these, or {_WAY_ON}")


def _shortened(names: Sequence[str]) -> str:
    shown = ", ".join(name[:24] for name in names[:NAMED])
    return f"{shown} … ({len(names)})" if len(names) > NAMED else shown
