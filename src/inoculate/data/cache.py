"""The per-user cache: where it is, the small JSON files in it, and the hashes of files that it remembers."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from inoculate.artifacts.files import write_json
from inoculate.artifacts.specs import fingerprint


def cache_root(cache: str | os.PathLike[str] | None = None) -> Path:
    """The folder for decoded images: `cache`, else the variable INOCULATE_CACHE, else the user's cache folder."""
    chosen = cache or os.environ.get("INOCULATE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("inoculate"))


def read_cached(path: Path) -> dict[str, Any]:
    """A small JSON object, or an empty one when it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_cached(path: Path, value: dict[str, Any]) -> None:
    """Write a small JSON object. Failing is silent: what is not in the cache only costs time later."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)


def files_digest(base: Path, files: Iterable[Path], cache: Path) -> str:
    """Hex hash of the files' names under `base` and of their bytes.

    A file is read again only if its size or modification time differs from the remembered ones in `cache`.
    """
    memo_path = cache / "hashes" / f"{fingerprint({'folder': str(base.resolve())})}.json"
    memo, seen = read_cached(memo_path), {}
    total = blake2b(digest_size=16)
    start = len(os.path.join(base, ""))  # strings: pathlib is slow on tens of thousands of files
    for path in sorted(map(os.fspath, files)):
        name, stat = path[start:].replace(os.sep, "/"), os.stat(path)
        known = memo.get(name)
        if not (isinstance(known, list) and known[:2] == [stat.st_size, stat.st_mtime_ns]):
            known = [stat.st_size, stat.st_mtime_ns, _file_hash(path)]
        seen[name] = known
        total.update(f"{name}\0{known[2]}\n".encode("utf-8", "surrogateescape"))
    if seen != memo:
        write_cached(memo_path, seen)
    return total.hexdigest()


def _file_hash(path: str) -> str:
    hasher = blake2b(digest_size=16)
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()
