"""The only writer of files. Every file appears complete or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from inoculate.core.errors import InputError


def write_file(path: Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Write a temporary file beside `path`, then rename it: a reader sees the old file or the new one, never a part.

    `write` receives a binary stream. Missing folders are made. Returns `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
        os.chmod(name, 0o666 & ~umask())  # mkstemp makes it private; others may read results
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def umask() -> int:
    """The permissions that this process withholds from new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: Path, content: bytes) -> Path:
    """Write bytes atomically."""
    return write_file(path, lambda stream: stream.write(content))


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text atomically."""
    return write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> Path:
    """Write a JSON value atomically; raises `ValueError` for NaN and infinity."""
    return write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in `path`; raises `InputError` with the file's name if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): delete it and run again") from error


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file's content; None if there is no such file."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
