"""Columns of a CSV file that lies beside the images of a folder."""

from __future__ import annotations

import csv
from pathlib import Path

from inoculate.core.errors import InputError
from inoculate.data.dataset import Dataset

FILE, KEY = "metadata.csv", "file_name"
MOST_GROUPS = 100


def read_column(path: Path, column: str, data: Dataset) -> tuple[str, ...]:
    """The value of a column for each image of `data`; empty text where it is empty.

    path: a CSV file with a header, in which the column `file_name` names each image by its path below the data's
        folder, as `Dataset.source_names` does.

    Raises `InputError` for a missing file or column (it names those that exist), for images without a line, and for a
    column with more than 100 values.
    """
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
    names = data.source_names()
    if not names:
        raise InputError(f"{data.name}: its images come from no files, which {path} could name")
    missing = [name for name in names if name not in known]
    if missing:
        raise InputError(f"{path} has no line for {len(missing)} of {len(names)} images (the first is {missing[0]})")
    values = tuple(known[name] for name in names)
    if len(set(values)) > MOST_GROUPS:
        raise InputError(f"column '{column}' of {path} has {len(set(values))} values: give one with at most 100")
    return values
