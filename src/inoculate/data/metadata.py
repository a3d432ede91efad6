"""Columns of the data: of a CSV file beside the images of a folder, of parquet files, of the hub's data."""

from __future__ import annotations

import csv
from pathlib import Path

from inoculate.core.errors import InputError
from inoculate.data.dataset import Dataset
from inoculate.data.readers import open_source
from inoculate.data.sources import PathLike, Source, find_source

FILE, KEY = "metadata.csv", "file_name"
MOST_GROUPS = 100


def read_column(source: PathLike, column: str, data: Dataset, *, data_root: PathLike | None = None) -> tuple[str, ...]:
    """The value of a column of the data for each image; empty text where it is empty.

    Args:
        source: what `data` was read from, as for `load_data`: a folder of images, which holds the file `metadata.csv`
            with a header and a column `file_name` that names each image by its path below the folder; a folder of
            parquet files; or a dataset of the hub.
        column: of text, whole numbers or truth values. Classes count by their names.
        data: the images.
        data_root: folder that is searched for `<name>/`.

    Raises `InputError` for data without columns, for a missing file or column (it names those that exist), for images
    without a value, for parquet files or a dataset of the hub that `data` was not read from, and for a column with more
    than 100 values.
    """
    found = find_source(source, data_root)
    if found.kind == "folders":
        place = str(Path(found.location) / FILE)
        known = _values_in_file(Path(place), column)
    elif found.kind in ("parquet", "hub"):
        place = found.location
        known = _values_in_rows(found, column, data)
    else:
        raise InputError(f"{source} has no columns: give a folder of images with {FILE}, parquet files or a hub id")
    names = data.source_names()
    if not names:
        raise InputError(f"{data.name}: its images come from no files, which {place} could name")
    missing = [name for name in names if name not in known]
    if missing:
        raise InputError(
            f"{place} has no '{column}' for {len(missing)} of {len(names)} images (the first is {missing[0]})"
        )
    values = tuple(known[name] for name in names)
    if len(set(values)) > MOST_GROUPS:
        raise InputError(
            f"column '{column}' of {place} has {len(set(values))} values: give one with at most {MOST_GROUPS}"
        )
    return values


def _values_in_file(path: Path, column: str) -> dict[str, str]:
    """The values of a column of `metadata.csv` by the name of the image."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns, lines = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the columns of the data in {path} ({error}): give a CSV file") from error
    others = [name for name in columns if name != KEY]
    if KEY not in columns:
        raise InputError(f"{path} has no column {KEY}: name each image's file in it (it has {', '.join(columns)})")
    if column not in others:
        raise InputError(f"{path} has no column '{column}': give one of {', '.join(others) or 'none'}")
    known: dict[str, str] = {}
    for line in lines:
        name = (line[KEY] or "").replace("\\", "/")
        if name in known:
            raise InputError(f"{path} has two lines for {name}: remove one")
        known[name] = line[column] or ""
    return known


def _values_in_rows(source: Source, column: str, data: Dataset) -> dict[str, str]:
    """The values of a column of parquet files or of the hub's data by the name of the row, for those in `data`."""
    if data.origin != source.digest:  # the number of a row says nothing in other files
        raise InputError(
            f"{data.name} was not read from {source.location} as it is now: load the data from it, then its column"
        )
    shards = open_source(source)
    columns = list(dict.fromkeys(name for shard in shards for name in shard.columns))
    if column not in columns:
        raise InputError(
            f"{source.location} has no column '{column}' of text, whole numbers or truth values: give one of "
            f"{', '.join(columns) or 'none'}"
        )
    wanted, holders = set(data.source_names()), [shard for shard in shards if column in shard.columns]
    return {name: value for shard in holders for name, value in shard.columns[column]() if name in wanted}
