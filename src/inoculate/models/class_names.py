"""What the outputs of a model are called: names that it brings, those of ImageNet, or a list that is given."""

from __future__ import annotations

import json
import os
import re
from ast import literal_eval
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import nn

from inoculate.core.errors import InputError, one_line

ClassNames: TypeAlias = Sequence[str] | Mapping[int, str] | str | os.PathLike[str]
WORDNET_ID = re.compile(r"(?<![a-z0-9])n\d{8}(?!\d)")
_PLACEHOLDER = re.compile(r"(label|class)?[ _-]?\d+", re.IGNORECASE)
_NUMBERING = re.compile(r"^\d+[\W_]+(?=[^\W\d_])")  # as in `001.Black_footed_Albatross`
_METADATA = ("class_names", "names", "classes", "labels", "id2label")  # keys under which exporters put names
_MOST_DIFFERENT = 0.1  # of ImageNet's names, where a model's list still counts as ImageNet's


@runtime_checkable
class HasClassNames(Protocol):
    """A model that says what its outputs are called."""

    class_names: Sequence[str]


@runtime_checkable
class _HasPretrainedConfig(Protocol):
    """A timm model."""

    pretrained_cfg: Mapping[str, Any]


@runtime_checkable
class _HasConfig(Protocol):
    """A model of transformers."""

    config: Any


@runtime_checkable
class _HasLabels(Protocol):
    id2label: Mapping[int, str]


@dataclass(frozen=True, eq=False)
class OutputNames:
    """What the outputs are called. `names` has one for each; `spellings`, best first, say which outputs a key means."""

    names: tuple[str, ...]
    origin: str
    spellings: tuple[Mapping[str, frozenset[int]], ...]

    def outputs_of(self, name: str) -> frozenset[int]:
        """The outputs that a class of the data may mean: by its WordNet id, else by its name; none if it has none."""
        wordnet = WORDNET_ID.search(name)
        keys = [name, *([wordnet[0]] if wordnet else []), simplified(name), simplified(_NUMBERING.sub("", name))]
        hits = (table[key] for table in self.spellings for key in keys if key in table)
        return next(hits, frozenset())


def simplified(name: str) -> str:
    """A name without case, separators and leading zeros: `Great_White-Shark` and `great white shark` are one."""
    letters = "".join(character for character in name.casefold() if character.isalnum())
    return str(int(letters)) if letters.isascii() and letters.isdigit() else letters or name


def are_placeholders(names: Sequence[str]) -> bool:
    """Whether names say no more than numbers do: `0`, `class 3`, `LABEL_7`."""
    return all(_PLACEHOLDER.fullmatch(name) for name in names)


def read_class_names(file: str | os.PathLike[str]) -> list[str] | dict[int, str]:
    """The names of a model's outputs in a file. Raises `InputError` where it holds none.

    It has one name per line, or is a JSON list of names or an object from index to name or from name to index.
    """
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"class names {path} cannot be read ({one_line(error)}): give a text or JSON file") from error
    if text.lstrip()[:1] not in ("[", "{"):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"class names {path} are not JSON ({one_line(error)}): correct the file") from error
    if isinstance(found, dict) and isinstance(found.get("id2label"), dict):  # the config.json of transformers
        found = found["id2label"]
    if isinstance(found, dict) and all(str(key).isdigit() for key in found):
        return {int(key): _one_name(value) for key, value in found.items()}
    if isinstance(found, dict) and all(isinstance(value, int) for value in found.values()):  # from name to index
        return {value: str(key) for key, value in found.items()}
    if not isinstance(found, list):
        raise InputError(f"class names {path} hold neither a list nor an object from index to name: give one of these")
    return [_one_name(value) for value in found]


def _one_name(value: Any) -> str:
    """The name in an entry of a list; of `["n01440764", "tench"]` both."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def given_names(names: ClassNames, outputs: int) -> OutputNames:
    """The names that a user gave for the `outputs`. Raises `InputError` where their number is another."""
    if isinstance(names, str | os.PathLike):
        names = read_class_names(names)
    if isinstance(names, Mapping):
        if outside := [index for index in names if not 0 <= index < outputs]:
            raise InputError(f"class names name output {outside[0]}, but the model has outputs 0..{outputs - 1}")
        return _named([str(names.get(index, index)) for index in range(outputs)], "the given names", set(names))
    if len(names) != outputs:
        raise InputError(f"{len(names)} class names are given and the model has {outputs} outputs: give one for each")
    return _named([str(name) for name in names], "the given names")


def stored_names(model: nn.Module, outputs: int) -> OutputNames | None:
    """The names that a model brings for its `outputs`, if it brings any that are more than numbers."""
    for names in _candidates(model):
        if len(names) == outputs and len(set(names)) == outputs:
            return _named(names, "the model's own names")
    return None


def _candidates(model: nn.Module) -> Iterator[list[str]]:
    for module in model.modules():
        if isinstance(module, HasClassNames) and isinstance(module.class_names, list | tuple):
            yield [str(name) for name in module.class_names]
        if isinstance(module, _HasConfig) and isinstance(module.config, _HasLabels):
            names = _in_order(module.config.id2label)
            yield [] if are_placeholders(names) else names
        if isinstance(module, _HasPretrainedConfig) and isinstance(module.pretrained_cfg, Mapping):
            labels = module.pretrained_cfg.get("label_names") or ()
            descriptions = module.pretrained_cfg.get("label_descriptions") or {}
            described = isinstance(descriptions, Mapping) and all(label in descriptions for label in labels)
            yield [f"{label}, {descriptions[label]}" if described and descriptions else str(label) for label in labels]


def names_in_metadata(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the outputs in the texts that an ONNX file keeps, as JSON or written by Python; none if absent."""
    for key in _METADATA:
        text = metadata.get(key, "")
        try:
            found = json.loads(text)
        except ValueError:
            try:
                found = literal_eval(text)
            except (ValueError, SyntaxError):
                continue
        names = _in_order(found) if isinstance(found, Mapping) else found
        if isinstance(names, list) and names:
            return tuple(map(str, names))
    return ()


def _in_order(names: Any) -> list[str]:
    """The names of a mapping from 0..K-1; none of another."""
    if not isinstance(names, Mapping) or set(map(str, names)) != set(map(str, range(len(names)))):
        return []
    return [str(name) for _, name in sorted(names.items(), key=lambda item: int(item[0]))]


def pretrained_classes(architecture: str, classes: Sequence[str]) -> tuple[str, ...]:
    """The names of the outputs to build for these classes: those of timm's pretrained head if it knows all of them."""
    import timm

    config = timm.get_pretrained_cfg(architecture)
    outputs = 0 if config is None else int(config.num_classes)
    labels = list(config.label_names or ()) if config is not None else []
    names = _named(labels, "") if labels and len(labels) == outputs else imagenet_names(outputs)
    return names.names if names is not None and all(map(names.outputs_of, classes)) else tuple(classes)


def imagenet_names(outputs: int) -> OutputNames | None:
    """The names of ImageNet's classes, where so many outputs are those of one of its sets."""
    wordnet, names, lemmas = _imagenet_tables(outputs)
    if not wordnet:
        return None
    origin = "ImageNet's WordNet ids and names"
    full = _table((simplified(name), i) for given in (names, lemmas) for i, name in enumerate(given))
    first = _table((simplified(name), i) for given in (names, map(_first, lemmas)) for i, name in enumerate(given))
    merged = {key: full.get(key, frozenset()) | first.get(key, frozenset()) for key in {*full, *first}}
    parts = _table((simplified(part), i) for i, text in enumerate(lemmas) for part in _parts(text))
    return OutputNames(tuple(names), origin, (_table((name, i) for i, name in enumerate(wordnet)), merged, parts))


def _imagenet_tables(outputs: int) -> tuple[list[str], list[str], list[str]]:
    """WordNet ids, names and lemmas of the outputs of a model trained on ImageNet, in their order; else nothing."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": outputs})
    if subset is None:
        return [], [], []
    info = ImageNetInfo(subset)
    wordnet = list(info.label_names())  # type: ignore[no-untyped-call]
    lemmas = [info.index_to_description(index) for index in range(outputs)]
    if outputs != 1000:
        return wordnet, [_first(text) for text in lemmas], lemmas
    from torchvision.models import ResNet18_Weights

    return wordnet, list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"]), lemmas


def _named(names: list[str], origin: str, known: set[int] | None = None) -> OutputNames:
    """Names with all their spellings; `known` are the outputs that have one, by default all."""
    numbered = [(index, name) for index, name in enumerate(names) if known is None or index in known]
    exact = _table((name, index) for index, name in numbered)
    full = _table((key, index) for index, name in numbered for key in {simplified(name), *_wordnet_ids(name)})
    parts = _table((simplified(part), index) for index, name in numbered for part in _parts(name))
    imagenet = imagenet_names(len(names)) if known is None else None
    if imagenet is not None:
        same = sum(index in imagenet.outputs_of(_first(name)) for index, name in numbered)
        if same >= (1 - _MOST_DIFFERENT) * len(names):
            return OutputNames(tuple(names), origin, (exact, *imagenet.spellings))
    return OutputNames(tuple(names), origin, (exact, full, parts))


def _wordnet_ids(name: str) -> list[str]:
    return WORDNET_ID.findall(name)


def _parts(name: str) -> list[str]:
    return [part.strip() for part in name.split(",") if part.strip()]


def _first(name: str) -> str:
    return _parts(name)[0] if _parts(name) else name


def _table(pairs: Any) -> dict[str, frozenset[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for key, index in pairs:
        found[key].add(index)
    return {key: frozenset(indices) for key, indices in found.items()}
