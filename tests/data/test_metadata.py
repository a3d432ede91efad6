"""Columns of parquet files and of the hub's data: every value stays with its image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from inoculate.core.errors import InputError
from inoculate.data.dataset import Dataset
from inoculate.data.load import load_data, load_parts
from inoculate.data.metadata import read_column

from .conftest import png

CAMERAS = ["front", "back", "7"]
FEATURES = {
    "image": {"_type": "Image"},
    "label": {"_type": "ClassLabel", "names": ["cat", "dog"]},
    "camera": {"_type": "ClassLabel", "names": CAMERAS},
}
FILES = {"train/0000.parquet": 300, "train/0001.parquet": 120, "test/0000.parquet": 180}
UNREADABLE = (0, 5, 299, 300, 420)  # of the 600 images; the last is the first of the test file
COLUMNS = ("label", "site", "camera", "night", "shift", "ward")


def number_of(image: torch.Tensor) -> int:
    """Which of the 600 images it is, as its pixels say."""
    return int(image[0, 0, 0]) + 256 * int(image[0, 0, 1])


def expected(column: str, number: int) -> str:
    """The value of a column for an image. No column has a period that another has, or the classes."""
    values: dict[str, Any] = {
        "label": ["cat", "dog"][number % 2],
        "site": ["A", "B ", "", "Å", "A/b"][(number * number + number // 3) % 5],
        "camera": [*CAMERAS, ""][number * 7 % 11 % 4],
        "night": number % 13 < 4,
        "shift": number * 3 % 17 - 1,
        "ward": f"ward {number % 19}",
    }
    return str(values[column])


def columns_of(numbers: range) -> dict[str, Any]:
    """The columns as they are stored: missing values, numbers of classes, 8-bit integers, a dictionary of text."""
    camera = [{name: i for i, name in enumerate(CAMERAS)}.get(expected("camera", n), -1) for n in numbers]
    return {
        "label": [n % 2 for n in numbers],
        "site": [expected("site", n) or None for n in numbers],
        "camera": [None if at == -1 and n % 2 else at for at, n in zip(camera, numbers, strict=True)],
        "night": [expected("night", n) == "True" for n in numbers],
        "shift": pa.array([int(expected("shift", n)) for n in numbers], pa.int8()),
        "ward": pa.array([expected("ward", n) for n in numbers]).dictionary_encode(),
        "age": [n / 7 for n in numbers],
        "number": list(numbers),
    }


@pytest.fixture
def shards(tmp_path: Path, cache: Path) -> Path:
    """Three parquet files, two of one name in different folders; five of their 600 images cannot be read."""
    start = 0
    for file, n in FILES.items():
        numbers = range(start, start + n)
        cells: list[Any] = []
        for number in numbers:
            pixels = np.zeros((8, 8), dtype=np.uint8)
            pixels[0, :2] = number % 256, number // 256
            content = png(Image.fromarray(pixels))
            broken = b"\x89PNG" if number != UNREADABLE[-1] else None
            cells.append({"bytes": broken if number in UNREADABLE else content, "path": None})
        table = pa.table({"image": cells, **columns_of(numbers)})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})
        path = tmp_path / "shards" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=64)
        start += n
    return tmp_path / "shards"


@pytest.fixture(params=["parquet", "hub"])
def source(request: pytest.FixtureRequest, shards: Path, tmp_path: Path, hub: Callable[..., None]) -> str:
    """The data SPEC of the three files: their folder, or a dataset of the hub as the `datasets` library reads them."""
    if request.param == "parquet":
        return str(shards)
    import datasets

    kinds = {"site": "string", "night": "bool", "shift": "int8", "ward": "string", "age": "float64", "number": "int64"}
    plain = {name: {"_type": "Value", "dtype": kind} for name, kind in kinds.items()}
    features = datasets.Features.from_dict({**FEATURES, **plain})
    files = {part: [str(shards / file) for file in FILES if file.startswith(part)] for part in ("train", "test")}
    hub(datasets.load_dataset("parquet", data_files=files, features=features, cache_dir=str(tmp_path / "library")))
    return "owner/wards"


def parts_of(source: str) -> dict[str, Dataset]:
    """The data in every order and selection in which a command may use them."""
    found = {split: load_data(source, split) for split in ("train", "val", "test", "all")}
    found |= {f"{split}, limit {n}": found[split].limit(n, seed=n) for split in ("test", "all") for n in (1, 37, 170)}
    mixed = np.random.default_rng(0).permutation(len(found["all"]))
    found |= {"shuffled": found["all"].subset(mixed), "twice": found["test"].subset([3, 3, 0])}
    found |= {f"part {i}": part for i, part in enumerate(load_parts(source, seed=1))}
    return found | {"colour": load_data(source, "test", channels=3, image_size=16, interpolation="nearest")}


def test_every_value_stays_with_its_image(source: str) -> None:
    parts = parts_of(source)
    assert [len(parts[name]) for name in ("all", "test", "test, limit 37")] == [595, 179, 37]
    for name, data in parts.items():
        pixels = data.images[:, :, ::2, ::2] if name == "colour" else data.images
        numbers = [number_of(image) for image in pixels]
        assert not set(numbers) & set(UNREADABLE)
        for column in COLUMNS:
            assert read_column(source, column, data) == tuple(expected(column, n) for n in numbers), (name, column)


def test_a_column_that_is_no_group_is_refused(source: str) -> None:
    data = load_data(source, "test")
    for column in ("age", "image", "Site", ""):
        words = refused(source, column, data, f"has no column '{column}' of text, whole numbers or truth values: give")
        assert set(words.partition("give one of ")[2].split(", ")) == {*COLUMNS, "number"}
    refused(source, "number", data, "column 'number' of .* has 179 values: give one with at most 100")
    assert len(read_column(source, "number", data.limit(100))) == 100


def refused(source: str | Path, column: str, data: Dataset, words: str) -> str:
    with pytest.raises(InputError, match=words) as raised:
        read_column(source, column, data)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_rows_of_other_data_are_refused(
    shards: Path, tmp_path: Path, cache: Path, hub: Callable[..., None], folders: Callable[..., Path]
) -> None:
    import datasets

    data = load_data(shards, "test")
    moved = shards.rename(tmp_path / "moved")
    assert len(read_column(moved, "site", data)) == len(data), "the same files elsewhere"
    pictures = load_data(folders({"a": 5, "b": 5}), "all")
    given = Dataset.from_tensors(data.images, data.labels, data.classes)
    refused(moved, "site", pictures, "pets was not read from .* as it is now: load the data from it")
    refused(moved, "site", given, "tensors was not read from")
    file = moved / "train" / "0000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.take(list(range(table.num_rows))[::-1]), file)
    refused(moved, "site", data, "as it is now")
    hub(datasets.load_dataset("parquet", data_files=str(file), cache_dir=str(tmp_path / "library")))
    online = load_data("owner/wards", "all")
    assert len(read_column("owner/wards", "site", online)) == len(online)
    hub({}, revision="abd")
    refused("owner/wards", "site", online, "was not read from owner/wards as it is now")
    refused("digits", "site", load_data("digits"), "digits has no columns")


def test_a_file_without_the_column_is_named(shards: Path) -> None:
    file = shards / "test" / "0000.parquet"
    pq.write_table(pq.read_table(file).drop_columns("site"), file)
    assert len(set(read_column(shards, "site", load_data(shards, "train")))) == 5
    refused(
        shards,
        "site",
        load_data(shards, "test"),
        r"no 'site' for 179 of 179 images \(the first is test/0000.parquet row 1\)",
    )
