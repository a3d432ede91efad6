"""What the jobs accept as model, data and attacks, and what is suspicious about it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from inoculate.attacks.base import Attack
from inoculate.attacks.registry import ATTACKS, get_attack
from inoculate.core.errors import InputError
from inoculate.core.rng import seeded
from inoculate.core.threat import Threat, large_eps_warning
from inoculate.data.dataset import Dataset
from inoculate.data.load import DataLike, as_dataset, load_data
from inoculate.data.preprocessing import AS_THEY_ARE, Preprocessing
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.models.averaged_logits import AveragedLogits
from inoculate.models.checks import model_warnings
from inoculate.models.class_findings import prediction_findings
from inoculate.models.class_names import ClassNames
from inoculate.models.classes import Counted, match_classes
from inoculate.models.classifier import Classifier, Precision, prepare
from inoculate.models.loading.inputs import expected_preprocessing, fit_channels
from inoculate.models.loading.load import ModelLike, as_module
from inoculate.models.loading.specs import brings_weights, kind_of

Attacks = Mapping[str, Attack] | Sequence[str | Attack]
_WITHOUT_DATA = ("factory", "torchscript", "onnx", "endpoint")  # model SPECs whose module does not depend on the images


def resolve_data(data: DataLike, model: ModelLike) -> Dataset:
    """The images to measure on: of a data SPEC the test part, read as `model` needs; others as they are."""
    if not is_spec(data):
        return as_dataset(data)
    if not is_spec(model):
        return fit_channels(as_dataset(data), as_module(model))
    images = as_dataset(data, preprocessing=expected_preprocessing(str(model)))
    return fit_channels(images, as_module(model)) if kind_of(str(model)) in _WITHOUT_DATA else images


def load_images(
    data: str,
    split: str = "test",
    preprocessing: Preprocessing = AS_THEY_ARE,
    *,
    data_root: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """At most `limit` images of a part of what a data SPEC names, balanced over the classes."""
    images = load_data(data, split, data_root=data_root, preprocessing=preprocessing)
    return images if limit is None else images.limit(limit, seed=seed)


def resolve_model(model: ModelLike, data: Dataset, device: str) -> nn.Module:
    """`model` as a module; one that a SPEC names is put on `device`, any other stays where it is."""
    network = as_module(model, data)
    return network.to(device) if is_spec(model) else network


def is_spec(value: object) -> bool:
    """Whether a model or data are given by name or path."""
    return isinstance(value, str | os.PathLike)


def name_of_model(model: ModelLike) -> str:
    """The name of a model in rows: its SPEC, else `model`."""
    return str(model) if is_spec(model) else "model"


def resolve_attacks(attacks: Attacks, options: Mapping[str, Any] | None = None) -> dict[str, Attack]:
    """The attacks by their names in rows: a registry name, else the class's or function's in lower case.

    `options` are those of all attacks given by name, and are added to their names in rows.

    Raises `InputError` for an unknown name, an object that is no attack, and two attacks of one name.
    """
    if isinstance(attacks, Mapping):
        return {name: resolve_attack(attack)[1] for name, attack in attacks.items()}
    if isinstance(attacks, str):
        raise InputError(f"attacks '{attacks}' is a single name: give a list, ['{attacks}']")
    found: dict[str, Attack] = {}
    for each in attacks:
        name, attack = resolve_attack(each, options)
        if name in found:
            raise InputError(f"two attacks are called {name}: give a mapping from names of your own to attacks")
        found[name] = attack
    return found


def resolve_attack(attack: str | Attack, options: Mapping[str, Any] | None = None) -> tuple[str, Attack]:
    """Name and attack of a registry name, with `options`, or of an attack object."""
    if isinstance(attack, str):
        shown = [f"{name}={str(value).rpartition(':')[2]}" for name, value in (options or {}).items()]
        return " ".join([attack, *shown]), get_attack(attack, **options or {})
    if isinstance(attack, type | nn.Module) or not callable(attack):
        first_line = repr(attack).partition("\n")[0]
        raise InputError(f"attack {first_line} is not an attack: give a name such as 'pgd', or an object such as PGD()")
    require_signature(attack)
    known: Any = next((name for name, each in ATTACKS.items() if each == attack), None)
    return known or getattr(attack, "__name__", type(attack).__name__).lower(), attack


def require_signature(attack: Attack) -> None:
    """Raise `InputError` for an attack that cannot be called as `attack(model, x, y, threat, generator=...)`."""
    try:
        inspect.signature(attack).bind(None, None, None, None, generator=None)
    except TypeError as error:
        raise InputError(
            f"attack {attack!r} cannot be called as attack(model, x, y, threat, generator=...): {error}"
        ) from error
    except ValueError:  # a builtin has no signature
        return


@dataclass(frozen=True)
class Matching:
    """How outputs are matched with the classes of the data: `class_names` and `classes` of `match_classes`."""

    class_names: ClassNames | None = None
    classes: Counted = "all"


@dataclass(frozen=True, eq=False)
class Prepared:
    """A classifier, the images with the classes that it has outputs for, and what looks wrong, one line each."""

    classifier: Classifier
    data: Dataset
    warnings: list[str]


def prepare_checked(
    model: ModelLike,
    data: Dataset,
    precision: Precision,
    device: str,
    seed: int,
    name: str = "",
    matching: Matching = Matching(),
) -> Prepared:
    """The prepared classifier, and what looks wrong with it on a few images; `name` says in each message which it is.

    Raises `InputError` where the model cannot be measured at all.
    """
    warnings = random_weights_warning(model)
    try:
        network, data = match_classes(resolve_model(model, data, device), data, matching.class_names, matching.classes)
    except InputError as error:
        raise InputError(f"{name}: {error}" if name else str(error)) from error
    warnings += model_warnings(network, data, seed=seed, name=name)
    with seeded(seed, "prepare"):
        return Prepared(prepare(network, data, precision=precision), data, warnings)


def averaged(classifiers: Sequence[Classifier], data: Dataset, precision: Precision, seed: int) -> Classifier:
    """The classifier whose logits are the mean of these; of one alone, itself."""
    if len(classifiers) == 1:
        return classifiers[0]
    with seeded(seed, "prepare"):
        return prepare(AveragedLogits([each.model for each in classifiers]), data, precision=precision)


def clean_warnings(clean: PerSampleResult, data: Dataset, name: str = "") -> list[str]:
    """What predictions on all clean images say about the classes; `name` says in each message which model it is."""
    prefix = f"{name}: " if name else ""
    return [f"{prefix}{each}" for each in prediction_findings(clean.predicted, data.labels.cpu(), data.classes)]


def random_weights_warning(model: ModelLike) -> list[str]:
    """A warning where a model SPEC names an architecture alone."""
    if not is_spec(model) or brings_weights(str(model)):
        return []
    return [f"{model} has random weights: load weights into it, or give a trained folder"]


def require_finite(clean: PerSampleResult, classifier: Classifier) -> None:
    """Raise `InputError` where the outputs are not finite on any clean image; labels always are."""
    if classifier.classes > 1 and not classifier.labels_only and len(clean) and not clean.margin.isfinite().any():
        raise InputError(
            f"the model gives outputs that are not finite on all of {len(clean)} clean images: "
            "check its weights and that it takes pixels in [0, 1]"
        )


def nonfinite_warning(clean: PerSampleResult, name: str = "") -> list[str]:
    """A warning where the outputs on some clean images are not finite; `name` says of which model."""
    bad = (~clean.margin.isfinite()).nonzero().squeeze(1)
    if not len(bad) or len(bad) == len(clean):  # with a single class there are no margins
        return []
    return [
        f"{f'{name}: ' if name else ''}the outputs on {len(bad)} of {len(clean)} clean images (the first is image "
        f"{int(bad[0])}) are not finite: they count as errors, look for an overflow, or a logarithm of 0, in the model"
    ]


def threat_warnings(threats: Iterable[Threat], data: Dataset) -> list[str]:
    """Threats whose eps is suspiciously large for these images; raises `InputError` for a mask that fits them not."""
    shape, threats = (data.channels, *data.image_size), list(threats)
    for threat in threats:
        require_fitting_mask(threat, data)
    return [message for threat in threats if (message := large_eps_warning(threat, shape))]


def require_fitting_mask(threat: Threat, data: Dataset) -> None:
    """Raise `InputError` where the threat's mask does not fit the images."""
    if threat.mask is not None:
        threat.mask.check((len(data), data.channels, *data.image_size))
