"""Data in any form to a `Dataset`: known names, hub ids, folders, tensors, torch datasets and data loaders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inoculate.artifacts.specs import code_digest, fingerprint
from inoculate.artifacts.store import Store
from inoculate.core.errors import InputError
from inoculate.core.options import require_one_of
from inoculate.core.progress import Progress
from inoculate.data.cache import cache_root, read_cached, write_cached
from inoculate.data.convert import TorchData, dataset_from_torch, with_shape
from inoculate.data.dataset import Dataset
from inoculate.data.decoded import DecodedSource, choose_shape, read_decoded, remove_abandoned, sample_of, write_decoded
from inoculate.data.preprocessing import AS_THEY_ARE, Preprocessing, ReadingOptions
from inoculate.data.readers import Shard, open_source
from inoculate.data.sources import PathLike, Source, find_source
from inoculate.data.split import Parts, partition

if TYPE_CHECKING:
    from typing_extensions import Unpack

PARTS = ("train", "val", "test", "all")
DataLike = Dataset | PathLike | tuple[Any, Any] | TorchData
# the modules that decide which pixels and labels a source holds, and in which order
_DECODER = tuple(
    f"inoculate.data.{module}"
    for module in ("decode", "decoded", "geometry", "labels", "layouts", "notes", "pixels", "preprocessing", "readers")
)


def load_data(
    data: DataLike,
    split: str = "train",
    *,
    data_root: PathLike | None = None,
    seed: int = 0,
    name: str | None = None,
    preprocessing: Preprocessing = AS_THEY_ARE,
    progress: Progress | None = None,
    **reading: Unpack[ReadingOptions],
) -> Dataset:
    """Labelled images from whatever holds them; `summary()` of the result says what was made.

    Args:
        data: a known name (mnist, cifar10, cats_vs_dogs, digits), a hub id `owner/name`, a local folder (one folder per
            class, or parquet shards), a torch `Dataset` or `DataLoader` of (image, label), a pair (images, labels) of
            tensors or arrays, or a `Dataset`. Images are RGB or grey: uint8 in 0..255, floats in [0, 1] that hold 8-bit
            values, or PIL images. A data loader that shuffles is read in its dataset's own order.
        split: `train`, `val`, `test` or `all` of a name, hub id or folder; other data are taken whole. `val` and `test`
            are the source's own where it has them. Else `test` is a stratified 20 %, and the rest is divided into train
            and val 7:1.
        data_root: folder that is searched for `<name>/` before the hub; by default the variable INOCULATE_DATA.
        seed: draws the splits.
        name: of the dataset in results.
        preprocessing: how images are read, as one value. What it leaves open, the images decide.
        progress: called as `(what, images done, all images)`.
        reading: the fields of `preprocessing` one by one: `image_size` (a side in pixels, or height and width),
            `channels` (1 is grey, 3 RGB), `resize` (pixels) or `crop` (fraction), `crop_mode`, `interpolation`,
            `value_range`.

    Raises `InputError` for what cannot be read or converted exactly.
    """
    require_one_of(PARTS, split=split)
    wanted = Preprocessing(**reading).over(preprocessing)
    if isinstance(data, str | os.PathLike):
        loaded = _part(decode_source(find_source(data, data_root), wanted, progress=progress), split, seed)
    else:
        loaded = with_shape(_converted(data, seed, wanted), wanted)
    return _named(loaded, name)


def as_dataset(data: DataLike, split: str = "test", **options: Any) -> Dataset:
    """`load_data` for functions that measure: names, hub ids and folders give their test part by default."""
    return load_data(data, split, **options)


def load_parts(
    data: DataLike | Mapping[str, DataLike],
    *,
    data_root: PathLike | None = None,
    seed: int = 0,
    name: str | None = None,
    preprocessing: Preprocessing = AS_THEY_ARE,
    progress: Progress | None = None,
    **reading: Unpack[ReadingOptions],
) -> tuple[Dataset, Dataset, Dataset]:
    """Train, validation and test parts, for functions that train. See `load_data` for the arguments.

    Names, hub ids and folders give the parts of `load_data`; other data are divided 70/10/20, stratified and by seed. A
    mapping `{"train": …, "test": …}` keeps the given test data and takes `val` from it, else an eighth of `train`.
    """
    wanted = Preprocessing(**reading).over(preprocessing)
    if isinstance(data, Mapping):
        return _given_parts(
            data, data_root=data_root, seed=seed, name=name, preprocessing=wanted, progress=progress
        )  # fmt: skip
    if isinstance(data, str | os.PathLike):
        decoded = decode_source(find_source(data, data_root), wanted, progress=progress)
        train, val, test = (_part(decoded, part, seed) for part in ("train", "val", "test"))
    else:
        whole = with_shape(_converted(data, seed, wanted), wanted)
        parts = partition(whole.labels.cpu(), seed=seed, classes=whole.classes)
        train, val, test = (whole.subset(rows) for rows in (parts.train, parts.val, parts.test))
    return _named(train, name), _named(val, name), _named(test, name)


def decode_source(
    source: Source,
    preprocessing: Preprocessing = AS_THEY_ARE,
    *,
    cache: PathLike | None = None,
    progress: Progress | None = None,
    **reading: Unpack[ReadingOptions],
) -> DecodedSource:
    """All labelled images of a source as uint8 N×C×H×W, decoded once into the cache and memory-mapped from there.

    By default the image size is a known name's own, else the shorter side if a sample agrees on it (at most 256), else
    224; channels are 1 if a sample is all grey, else 3. Unreadable images are left out with a warning and listed in
    `skipped`. Raises `InputError` when more than 1 % are unreadable, or labels are wrong.
    """
    wanted = Preprocessing(**reading).over(preprocessing)
    root = cache_root(cache)
    decoder = code_digest(*_DECODER)
    shards: list[Shard] = []

    def opened() -> list[Shard]:
        shards.extend(() if shards else open_source(source))
        return shards

    file = root / "shapes" / f"{fingerprint({'source': source.digest, 'decoder': decoder})}.json"
    shape = read_cached(file)
    if not shape:
        own_size, own_channels = choose_shape(sample_of(opened()), source.name)
        write_cached(file, shape := {"size": own_size, "channels": own_channels})
    own = Preprocessing(image_size=source.image_size or int(shape["size"]), channels=int(shape["channels"]))
    asked, wanted = wanted, wanted.over(own)
    wanted.scale  # noqa: B018 (its check)
    spec = {"source": source.digest, "reading": wanted.spec, "decoder": decoder}

    def write(folder: Path) -> None:
        try:
            write_decoded(folder, opened(), source.name, wanted, progress)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # nothing in it can be resumed
            raise

    try:
        store = Store(root)
        if store.find("images", spec) is None:
            remove_abandoned(root / "images")
        found = read_decoded(store.get_or_make("images", spec, write), source.name)
    except OSError as error:
        raise InputError(
            f"cannot keep decoded images in {root} ({error.strerror or error}): "
            "free space there, or set INOCULATE_CACHE to another folder"
        ) from error
    notes = (*source.notes, *found.data.notes, *_shape_notes(asked, own, wanted))
    return replace(found, data=replace(found.data, notes=notes, origin=source.digest))


def _shape_notes(asked: Preprocessing, own: Preprocessing, reading: Preprocessing) -> list[str]:
    """What was asked for that the images would not have decided themselves."""
    notes = []
    if reading.channels != own.channels:
        grey, colour = ("grey", "RGB") if own.channels == 1 else ("RGB", "grey")
        notes.append(f"{grey} images were read as {colour}")
    if {asked.resize, asked.crop, asked.crop_mode, asked.interpolation} != {None}:
        notes.append(f"images were read as asked for, or as the model's weights need: {reading}")
    return notes


def _part(decoded: DecodedSource, split: str, seed: int) -> Dataset:
    data = decoded.data
    if split == "all":
        return data
    parts = _parts(decoded, seed)
    part = data.subset({"train": parts.train, "val": parts.val, "test": parts.test}[split])
    if split == "test" and decoded.has_val and not decoded.has_test:
        note = "the data have no test split: their test part is a fifth of the training images"
        return replace(part, notes=(*part.notes, note))
    return part


def _parts(decoded: DecodedSource, seed: int) -> Parts:
    """The source's own validation and test splits where it has them, and what is drawn from the rest."""
    data, test, val = decoded.data, decoded.official_test, decoded.official_val
    if not decoded.has_val:
        return partition(
            data.labels, seed=seed, test_mask=test if decoded.has_test else None, classes=data.classes
        )  # fmt: skip
    rest = np.flatnonzero(~(test | val))
    if decoded.has_test:
        return Parts(rest, np.flatnonzero(val), np.flatnonzero(test))
    nothing = np.zeros(len(rest), dtype=bool)
    drawn = partition(
        data.labels[rest], seed=seed, fractions=(0.64, 0.16, 0.2), test_mask=nothing, classes=data.classes
    )  # fmt: skip
    return Parts(rest[drawn.train], np.flatnonzero(val), rest[drawn.val])


def _converted(data: Any, seed: int, wanted: Preprocessing) -> Dataset:
    """Data that are held in memory or read by torch, as they are."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, torch.utils.data.Dataset | torch.utils.data.DataLoader):
        return dataset_from_torch(data, seed, wanted)
    if isinstance(data, tuple | list) and len(data) == 2:
        return Dataset.from_tensors(*data)
    raise InputError(
        f"data of type {type(data).__name__} cannot be read: give a name, a folder, a torch Dataset or DataLoader, or "
        "a pair (images, labels)"
    )


def _given_parts(data: Mapping[str, DataLike], **options: Any) -> tuple[Dataset, Dataset, Dataset]:
    for part in data:
        require_one_of(("train", "val", "test"), part=part)
    if not {"train", "test"} <= data.keys():
        raise InputError(f"data for training need 'train' and 'test', got {', '.join(data)}: add the missing part")
    require_whole(data)
    given = {part: load_data(each, part, **options) for part, each in data.items()}
    train, test = given["train"], given["test"]
    for part, each in given.items():
        if each.classes != train.classes:
            raise InputError(
                f"the classes of '{part}' ({len(each.classes)}) are not those of 'train' ({len(train.classes)}): "
                "name all of them in both with Dataset.from_tensors(images, labels, classes)"
            )
    if "val" in given:
        return train, given["val"], test
    parts = partition(
        train.labels.cpu(), seed=options["seed"], test_mask=np.zeros(len(train), dtype=bool), classes=train.classes
    )
    return train.subset(parts.train), train.subset(parts.val), test


def require_whole(parts: Mapping[str, DataLike]) -> None:
    """Raise `InputError` for a part that is given by name or path, because that would be divided again."""
    for part, data in parts.items():
        if isinstance(data, str | os.PathLike):
            raise InputError(
                f"the part '{part}' is given as '{data}', and that has parts: give load_data('{data}', split=...), "
                "with split 'all' for a folder of this part alone"
            )


def _named(data: Dataset, name: str | None) -> Dataset:
    return data if name is None else replace(data, name=name)
