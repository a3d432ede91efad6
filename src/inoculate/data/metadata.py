"""Columns of a CSV file that lies beside the images of a folder."""

from __future__ import annotations

import csv
from pathlib import Path

from inoculate.core.errors import InputError
from inoculate.data.dataset import Dataset
from inoculate.data.sources import PathLike, find_source

FILE, KEY = "metadata.csv", "file_name"
MOST_GROUPS = 100


def read_column(source: PathLike, column: str, data: Dataset, *, data_root: PathLike | None = None) -> tuple[str, ...]:
    """The value of a column of `metadata.csv` for each image; empty text where it is empty.

    Args:
        source: the folder that `data` was read from, or its name in `data_root`, as for `load_data`. It holds the file
            `metadata.csv` with a header; its column `file_name` names each image by its path below the folder.
        column: one of the other columns.
        data: the images.
        data_root: folder that is searched for `<name>/`.

    Raises `InputError` for data that are no folder, for a missing file or column (it names those that exist), for
    images without a line, and for a column with more than 100 values.
    """
    folder = find_source(source, data_root).location
    if not folder or not Path(folder).is_dir():
        raise InputError(f"column {column} needs {FILE} in a folder of images, and {source} is no folder")
    path = Path(folder) / FILE
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
