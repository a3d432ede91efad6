"""The journal of an evaluation: what was found on each batch, kept at once, so that nothing is computed twice."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inoculate.artifacts.arrays import read_arrays, write_arrays
from inoculate.artifacts.chunks import KEY, Arrays, Chunks
from inoculate.artifacts.files import write_json
from inoculate.artifacts.own_code import code_of_class, name_of_class
from inoculate.artifacts.specs import code_digest, described, fingerprint
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.provenance import image_identities
from inoculate.evaluation.tally import Tally
from inoculate.models.classifier import Classifier
from inoculate.models.identity import Answers, answers, identity

KIND, CHUNKS = "measured", "images"  # names of folders in a store
_ANSWERS, _SPEC = "answers.npz", "spec.json"
_MEASURING = ("engine", "crafters", "parcels", "per_sample", "spread", "tally", "targets")
_CODE = ("core", "models", "attacks", *(f"evaluation.{name}" for name in _MEASURING))


@dataclass(eq=False)
class Journal:
    """Results of single images in the folder `store`, each under everything that decides it.

    That is the image with its label, mask and target, the models, the attack with its options, norm, eps and seed, the
    code that measures, and the versions of the libraries that models and attacks come from. The batch size does not
    count where it changes results by rounding alone; else the images of the batch do.
    """

    store: Path
    passes: float = 0.0  # which the results taken over had cost when they were made
    _keyed: list[tuple[Dataset, list[bytes]]] = field(default_factory=list)  # of the data seen last
    _identified: dict[int, tuple[Classifier, dict[str, Any], Answers]] = field(default_factory=dict)

    @classmethod
    def at(cls, store: str | os.PathLike[str] | None) -> Journal | None:
        """The journal in a store, and none without one."""
        return None if store is None else cls(Path(store))

    def open(
        self,
        classifiers: Sequence[Classifier],
        data: Dataset,
        made_by: Mapping[str, Any],
        threats: Sequence[Threat],
        *,
        targets: Tensor | None = None,
        together: Sequence[Tensor] = (),
    ) -> Entries | None:
        """What is known of the `data` when `classifiers` see the images that `made_by` (JSON values) describes.

        `targets` (N) are the classes that the images are driven to. `together`: rows of images that decide each other's
        results. None where nothing tells a classifier from another one, so that no result can be kept.
        """
        identified = [self._identify(each, data) for each in classifiers]
        if not all(each.is_sure for _, each in identified):
            return None
        spec = {
            "models": [each for each, _ in identified],
            "made_by": dict(made_by),
            "threats": [_describe_threat(threat) for threat in threats],
            "code": {name: code_digest(f"inoculate.{name}") for name in _CODE},
        }
        answered = [each for _, each in identified]
        extras = _extras(data, threats, targets)
        keys = [_extended(key, *extra) for key, extra in zip(self._keys_of(data), extras, strict=True)]
        for rows in together:
            whole = _digest(*(keys[row] for row in rows.tolist()))
            for row in rows.tolist():
                keys[row] = _extended(keys[row], whole)
        return Entries(self, Chunks(self._folder(spec, answered) / CHUNKS), keys)

    def _identify(self, classifier: Classifier, data: Dataset) -> tuple[dict[str, Any], Answers]:
        """Identity and answers of a classifier, found once."""
        if id(classifier) not in self._identified:
            found = answers(classifier, data)
            self._identified[id(classifier)] = (classifier, identity(classifier), found)
        return self._identified[id(classifier)][1:]

    def _folder(self, spec: Mapping[str, Any], answered: Sequence[Answers]) -> Path:
        """The folder of a spec whose models gave these answers; one that was made by others is left alone."""
        for number in range(1000):
            folder = self.store / KIND / fingerprint({**spec, "number": number})
            if not (folder / _ANSWERS).is_file():
                write_json(folder / _SPEC, dict(spec))
                write_arrays(
                    folder / _ANSWERS,
                    {
                        f"{part} {number}": tensor.numpy()
                        for number, each in enumerate(answered)
                        for part, tensor in each._asdict().items()
                    },
                )
                return folder
            try:
                kept = read_arrays(folder / _ANSWERS)
                known = [
                    Answers(*(torch.from_numpy(kept[f"{part} {number}"]) for part in Answers._fields))
                    for number in range(len(answered))
                ]
            except (InputError, KeyError):
                continue
            if all(map(Answers.equals, known, answered)):
                return folder
        raise ValueError(f"{self.store} holds a thousand models that differ in their answers alone")

    def _keys_of(self, data: Dataset) -> list[bytes]:
        """A key for each image, from its pixels and its label."""
        for known, keys in self._keyed:
            if known is data:
                return keys
        pairs = zip(image_identities(data), data.labels.cpu().tolist(), strict=True)
        keys = [_digest(pixels.encode(), str(label).encode()) for pixels, label in pairs]
        self._keyed = [*self._keyed[-1:], (data, keys)]
        return keys


@dataclass(eq=False)
class Entries:
    """The part of a journal that is about one measurement."""

    journal: Journal
    chunks: Chunks
    keys: list[bytes]

    def restore(self, tally: Tally, rows: Tensor) -> Tensor:
        """Write what is known of the images `rows` into the tally; returns the rows of which nothing is."""
        known, missing, kept = self.find(rows)
        if len(known):
            tally.take(known, kept)
            self.journal.passes += float(tally.passes[known].sum())
        return missing

    def record(self, tally: Tally, rows: Tensor) -> None:
        """Keep what the tally holds of the images `rows`."""
        self.add(rows, tally.rows(rows))

    def find(self, rows: Tensor) -> tuple[Tensor, Tensor, Arrays]:
        """Those of the images `rows` that are known, the others, and the arrays of the first."""
        places, kept = self.chunks.find([self.keys[row] for row in rows.tolist()])
        missing = torch.ones(len(rows), dtype=torch.bool)
        missing[torch.from_numpy(places)] = False
        return rows[~missing], rows[missing], kept

    def add(self, rows: Tensor, arrays: Arrays) -> None:
        """Keep arrays with a row for each of the images `rows`."""
        self.chunks.add([self.keys[row] for row in rows.tolist()], arrays)


def describe(attack: object) -> Any:
    """An attack as JSON values that differ whenever it does.

    Raises `TypeError` for one with an option that cannot be told apart so, such as a function: its results cannot be
    kept.
    """
    return described(attack, _content, lambda kind: f"{name_of_class(kind)} {code_of_class(kind)}")


def _content(value: object) -> Any:
    if isinstance(value, Tensor):
        return [str(value.dtype), list(value.shape), _digest(value.detach().cpu().contiguous().numpy().tobytes()).hex()]
    raise TypeError(f"{type(value).__name__} has no description")


def _describe_threat(threat: Threat) -> dict[str, Any]:
    mask = threat.mask
    name = None if mask is None else "per image" if mask.per_image else mask.digest
    return {"norm": threat.norm, "eps": threat.eps, "low": threat.low, "high": threat.high, "mask": name}


def _extras(data: Dataset, threats: Sequence[Threat], targets: Tensor | None) -> list[list[bytes]]:
    """What else decides the result of each image: the mask of its own, and the class that it is driven to."""
    mask = next((each.mask for each in threats if each.mask is not None and each.mask.per_image), None)
    found: list[list[bytes]] = [[] for _ in range(len(data))]
    for row, extra in enumerate(found):
        if mask is not None:
            extra.append(mask.pixels[row].numpy().tobytes())
        if targets is not None:
            extra.append(str(int(targets[row])).encode())
    return found


def _extended(key: bytes, *extra: bytes) -> bytes:
    return _digest(key, *extra) if extra else key


def _digest(*parts: bytes) -> bytes:
    total = hashlib.blake2b(digest_size=KEY)
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.digest()
