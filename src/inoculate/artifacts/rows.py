"""Rows (`results.json`) and per-image records (`records.npz`) on disk."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inoculate.artifacts.files import write_file, write_text
from inoculate.core.errors import InputError
from inoculate.core.row import Row

Records = Mapping[str, NDArray[np.bool_]]
_KINDS: dict[str, Any] = {"str": (str,), "int": (int,), "float": (int, float)}


def write_rows(path: str | Path, rows: Iterable[Row]) -> Path:
    """Write rows as the `results.json` list, atomically, one row per line."""
    lines = ",\n".join("  " + json.dumps(row.as_dict(), ensure_ascii=False) for row in rows)
    return write_text(Path(path), f"[\n{lines}\n]\n" if lines else "[]\n")


def read_rows(path: str | Path) -> list[Row]:
    """Read a `results.json` list; unknown fields are ignored. Raises `InputError` when it is missing or malformed."""
    path = Path(path)
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot read the results ({error.strerror}); give the results.json of a run"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); give the results.json of a run") from None
    if not isinstance(items, list):
        raise InputError(
            f"{path}: expected a list of rows, found {type(items).__name__}; give the results.json of a run"
        )
    return [_row(item, f"{path}: row {number}") for number, item in enumerate(items, start=1)]


def _row(item: Any, where: str) -> Row:
    if not isinstance(item, dict):
        raise InputError(f"{where}: expected an object, found {type(item).__name__}")
    values: dict[str, Any] = {}
    for field in fields(Row):
        if field.default is None and item.get(field.name) is None:
            continue  # optional, and not known
        if field.name not in item:
            if field.default is not MISSING:
                continue
            raise InputError(f"{where}: field '{field.name}' is missing")
        value: Any = item[field.name]
        kind = str(field.type).removesuffix(" | None")
        if not isinstance(value, _KINDS[kind]) or isinstance(value, bool):
            raise InputError(f"{where}: field '{field.name}' should be {kind}, found {value!r}")
        values[field.name] = float(value) if kind == "float" else value
    row = Row(**values)
    if not 0 <= row.correct <= row.n or row.n == 0:
        raise InputError(f"{where}: needs 0 <= correct <= n and n > 0, found correct={row.correct}, n={row.n}")
    return row


def write_records(path: str | Path, records: Records) -> Path:
    """Write per-image outcomes (True = classified correctly) as one compressed npz: keys, lengths and packed bits."""
    keys = list(records)
    outcomes = [np.asarray(records[key], dtype=np.bool_) for key in keys]
    packed = [np.packbits(outcome) for outcome in outcomes] or [np.zeros(0, dtype=np.uint8)]
    lengths = np.array([len(outcome) for outcome in outcomes], dtype=np.int64)
    names = np.array(keys, dtype=np.str_)
    return write_file(
        Path(path), lambda stream: np.savez_compressed(stream, keys=names, n=lengths, bits=np.concatenate(packed))
    )


def read_records(path: str | Path) -> dict[str, NDArray[np.bool_]]:
    """Read what `write_records` wrote. Raises `InputError` when the file is missing or malformed."""
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            keys, lengths, bits = file["keys"], file["n"], file["bits"]
        sizes = (lengths + 7) // 8
        if len(keys) != len(lengths) or int(sizes.sum()) != len(bits):
            raise ValueError("keys, lengths and bits do not match")
        parts = np.split(bits, np.cumsum(sizes)[:-1]) if len(keys) else []
        return {
            str(key): np.unpackbits(part, count=int(n)).astype(np.bool_)
            for key, n, part in zip(keys, lengths, parts, strict=True)
        }
    except OSError as error:
        reason = error.strerror or "not an npz file"
        raise InputError(f"{path}: cannot read the records ({reason}); give the records.npz of a run") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a records file ({error}); give the records.npz of a run") from None
