"""Datasets as shards, whatever they are stored in: raw labels at once, encoded images as a stream."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from inoculate.core.errors import InputError
from inoculate.core.extras import require
from inoculate.data.layouts import Listing, list_folder, split_of
from inoculate.data.pixels import Payload
from inoculate.data.sources import Source

_IMAGE_NAMES = ("image", "img", "images", "picture", "photo", "jpg", "png", "pixels")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "category", "target", "y", "digit", "coarse_label", "cls")
_ROWS = 256  # encoded images held at a time

Item = tuple[str, Payload | None]  # its name; None where the source holds no image


@dataclass(frozen=True)
class Shard:
    """Consecutive images of one split, with one raw label each (int, str or None) and, if stored, the class names.

    items: yields every image, encoded, with a name that no other image of the source has. sample: about so many images,
    spread over the shard. columns: by name, those of text, whole numbers or truth values; yields the name of every
    image and its value, empty where it is missing.
    """

    name: str
    split: str
    labels: list[Any]
    names: tuple[str, ...] | None
    items: Callable[[], Iterator[Item]]
    sample: Callable[[int], list[Payload]]
    columns: Mapping[str, Callable[[], Iterator[tuple[str, str]]]] = field(default_factory=dict)


def open_source(source: Source) -> list[Shard]:
    """The shards of a source. Raises `InputError` if it cannot be read."""
    if source.kind == "digits":
        return digits_shards()
    if source.kind == "hub":
        return hub_shards(source.location, source.revision)
    listing = list_folder(Path(source.location))
    return parquet_shards(listing) if listing.kind == "parquet" else folder_shards(listing)


def folder_shards(listing: Listing) -> list[Shard]:
    """One shard per split of a folder with one folder per class."""
    shards = []
    for split in sorted(set(listing.splits), key=listing.splits.index):
        rows = [i for i, of in enumerate(listing.splits) if of == split]
        files = [listing.files[i] for i in rows]

        def items(files: list[Path] = files) -> Iterator[Item]:
            for file in files:
                yield file.relative_to(listing.base).as_posix(), file

        def sample(n: int, files: list[Path] = files) -> list[Payload]:
            return list(files[:: max(1, len(files) // n)])

        shards.append(Shard(split, split, [listing.labels[i] for i in rows], None, items, sample))
    return shards


def parquet_shards(listing: Listing) -> list[Shard]:
    """One shard per parquet file. Raises `InputError` naming a damaged file or one without an image or label column."""
    return [_parquet_shard(listing.base, *pair) for pair in zip(listing.files, listing.splits, strict=True)]


def _parquet_shard(base: Path, file: Path, split: str) -> Shard:
    import pyarrow.parquet as pq

    where = file.relative_to(base).as_posix()
    with _parquet_errors(file), pq.ParquetFile(file) as parquet:
        schema = parquet.schema_arrow
    features = _stored_features(schema.metadata)
    image, label, names = find_columns(schema, features, str(file))

    def read(column: str) -> list[Any]:
        with _parquet_errors(file), pq.ParquetFile(file) as parquet:
            values: list[Any] = parquet.read(columns=[column]).column(0).to_pylist()
        return values

    def items() -> Iterator[Item]:
        row = 0
        with _parquet_errors(file), pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=_ROWS, columns=[image]):
                for value in batch.column(0).to_pylist():
                    yield _row_name(where, row), _payload(value)
                    row += 1

    def sample(n: int) -> list[Payload]:
        with _parquet_errors(file), pq.ParquetFile(file) as parquet:
            groups = range(0, parquet.num_row_groups, max(1, parquet.num_row_groups // 8))
            each = max(1, n // max(1, len(groups)))
            found: list[Any] = []
            for group in groups:
                batch = next(parquet.iter_batches(batch_size=each, row_groups=[group], columns=[image]), None)
                found += batch.column(0).to_pylist() if batch is not None else []
        return [payload for payload in map(_payload, found) if payload is not None]

    return Shard(str(file), split, read(label), names, items, sample, _columns(schema, features, where, read))


def hub_shards(hub_id: str, revision: str) -> list[Shard]:
    """One shard per split of a dataset on the hub, downloaded on first use into the `datasets` library's own cache.

    Raises `InputError`, with the library's reason, when it cannot be downloaded or understood.
    """
    require("datasets", "hub", "loading a dataset from the hub")
    import datasets

    try:
        splits = datasets.load_dataset(hub_id, revision=revision or None)
    except Exception as error:  # the library raises dozens of types: network, layout, configuration, disk
        raise InputError(
            f"cannot load {hub_id!r} from the hub ({_type_and_message(error)}): download it and give the local folder"
        ) from error
    return [_hub_shard(hub_id, name, data) for name, data in splits.items()]


def _hub_shard(hub_id: str, name: str, data: Any) -> Shard:
    where = f"{hub_id}, split {name}"
    schema, features = data.features.arrow_schema, data.features.to_dict()
    image, label, names = find_columns(schema, features, where)
    images = data.select_columns([image]).with_format("arrow")

    def items() -> Iterator[Item]:
        row = 0
        for table in images.iter(batch_size=_ROWS):
            for value in table.column(0).to_pylist():
                yield _row_name(where, row), _payload(value, local=True)
                row += 1

    def read(column: str) -> list[Any]:
        values: list[Any] = data.select_columns([column]).with_format("arrow")[:].column(0).to_pylist()
        return values

    def sample(n: int) -> list[Payload]:
        rows = range(0, len(images), max(1, len(images) // n))
        found = [_payload(images[i : i + 1].column(0).to_pylist()[0], local=True) for i in rows]
        return [payload for payload in found if payload is not None]

    columns = _columns(schema, features, where, read)
    return Shard(where, split_of(name), read(label), names, items, sample, columns)


def digits_shards() -> list[Shard]:
    """scikit-learn's 1,797 handwritten digits, 8×8, whose values 0..16 become 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)

    def items() -> Iterator[Item]:
        return ((f"digit {i}", image) for i, image in enumerate(images))

    return [Shard("digits", "train", digits.target.tolist(), tuple("0123456789"), items, lambda n: list(images[:n]))]


def find_columns(schema: Any, features: Mapping[str, Any], where: str) -> tuple[str, str, tuple[str, ...] | None]:
    """The image column, the label column and any stored class names, by the stored feature types, else by name."""
    typed = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, Mapping)}
    images = [n for n in schema.names if typed.get(n) == "Image"] or [
        n for n in schema.names if _holds_bytes(schema, n)
    ]
    classes = [n for n in schema.names if typed.get(n) == "ClassLabel"]
    image = next((n for n in _IMAGE_NAMES if n in images), images[0] if len(images) == 1 else None)
    label = next((n for n in _LABEL_NAMES if n in (classes or schema.names)), classes[0] if len(classes) == 1 else None)
    for column, kind, names in ((image, "image", _IMAGE_NAMES), (label, "label", _LABEL_NAMES)):
        if column is None:
            raise InputError(
                f"{where} has no {kind} column among {', '.join(schema.names)}: name it {names[0]!r} or {names[1]!r}"
            )
    assert image is not None
    assert label is not None
    return image, label, _class_names(features, label)


def _class_names(features: Mapping[str, Any], column: str) -> tuple[str, ...] | None:
    """The names of the classes in a column; None where it stores none."""
    feature = features.get(column)
    stored = feature.get("names") if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel" else None
    return tuple(map(str, stored)) if stored else None


def _columns(
    schema: Any, features: Mapping[str, Any], where: str, read: Callable[[str], list[Any]]
) -> dict[str, Callable[[], Iterator[tuple[str, str]]]]:
    """`Shard.columns` of a table; `read` gives the values of one of its columns in the order of the rows."""

    def values(column: str) -> Iterator[tuple[str, str]]:
        names = _class_names(features, column)
        texts: dict[int | None, str] = {None: "", **({-1: "", **dict(enumerate(names))} if names else {})}
        return ((_row_name(where, row), str(texts.get(value, value))) for row, value in enumerate(read(column)))

    kinds = zip(schema.names, schema.types, strict=True)
    return {name: partial(values, name) for name, kind in kinds if _is_discrete(kind)}


def _row_name(where: str, row: int) -> str:
    return f"{where} row {row}"


def _is_discrete(kind: Any) -> bool:
    """Whether a column holds text, whole numbers or truth values, perhaps by a dictionary."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return str(kind) in ("string", "large_string", "string_view", "bool") or bool(types.is_integer(kind))


def _type_and_message(error: BaseException, width: int = 160) -> str:
    """An exception's type and text on one short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:width]}{'…' if len(text) > width else ''}" if text else type(error).__name__


def _holds_bytes(schema: Any, name: str) -> bool:
    import pyarrow as pa

    kind = schema.field(name).type
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _stored_features(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Any]:
    """The features that the `datasets` library stores in a file's schema; none when absent or damaged."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _payload(value: Any, local: bool = False) -> Payload | None:
    """The encoded image in a cell; paths are followed only where the `datasets` library put the files itself."""
    if isinstance(value, Mapping):
        path = value.get("path")
        value = value.get("bytes") or (Path(path) if local and path else None)
    return value if isinstance(value, (bytes, Path)) and value else None


@contextmanager
def _parquet_errors(file: Path) -> Iterator[None]:
    """Turn pyarrow's errors about a damaged file into an InputError that names it."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot read {file} ({_type_and_message(error)}): copy this parquet file again") from error
