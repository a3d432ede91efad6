"""Content-addressed artefacts: a folder named by the fingerprint of its spec, complete once it has a manifest."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from inoculate.artifacts.files import write_json
from inoculate.artifacts.specs import fingerprint
from inoculate.core.errors import InputError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Store:
    """Artefacts under `root/<kind>/<fingerprint>/`.

    An artefact is made in `<fingerprint>.partial` and renamed when complete, so a reader never sees part of one. The
    partial folder survives a crash, and the next attempt can resume from it. A lock keeps two processes from making
    the same artefact, also on two machines that share the folder: the second waits, and finds it. The lock's file names
    the machine and the process of every attempt; their number becomes `attempts` in the manifest.
    """

    root: Path

    def path(self, kind: str, spec: Mapping[str, Any]) -> Path:
        """The folder of this spec's artefact, which may not exist yet."""
        return self.root / kind / fingerprint(spec)

    def find(self, kind: str, spec: Mapping[str, Any]) -> Path | None:
        """The artefact's folder if it is complete (see `is_complete`), else None."""
        folder = self.path(kind, spec)
        return folder if is_complete(folder) else None

    def get_or_make(
        self, kind: str, spec: Mapping[str, Any], make: Callable[[Path], Any], *, seconds: float | None = None
    ) -> Path:
        """The folder of this spec's artefact; if it is missing or damaged, `make(folder)` fills it first.

        `make` receives the partial folder, which may hold what an interrupted run left there. `seconds` is what making
        it took where `make` only puts it back.
        """
        if found := self.find(kind, spec):
            return found
        final = self.path(kind, spec)
        partial = final.with_name(final.name + ".partial")
        final.parent.mkdir(parents=True, exist_ok=True)
        with _lock(final.with_name(final.name + ".lock")) as attempts:
            if found := self.find(kind, spec):  # another process made it meanwhile
                return found
            attempts.write(f"{platform.node()} {os.getpid()}\n")
            attempts.flush()
            attempts.seek(0)
            count = len(attempts.readlines())
            partial.mkdir(exist_ok=True)
            began = time.perf_counter()
            make(partial)
            took = round(time.perf_counter() - began, 3) if seconds is None else seconds
            write_manifest(partial, spec, seconds=took, attempts=count)
            if final.exists():  # damaged: `find` refused it
                shutil.rmtree(final)
            os.replace(partial, final)
        return final


def write_manifest(folder: Path, spec: Mapping[str, Any], **facts: Any) -> None:
    """Mark `folder` complete: write a manifest with its spec, the size of every file in it, and `facts` (JSON)."""
    files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    files.pop(MANIFEST, None)
    write_json(folder / MANIFEST, {"spec": dict(spec), "files": files, **facts})


def is_complete(folder: Path) -> bool:
    """Whether `folder` has a readable manifest and every file listed in it, at the recorded size."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[TextIO]:
    """Hold an exclusive lock, and its open file. The system releases it even when the process is killed.

    The file is removed when the block ends without an exception. Raises `InputError` where files cannot be locked.
    """
    while True:
        with path.open("a+") as handle:
            _flock(handle, path)
            if not _is_same_file(handle, path):  # removed by the process that held the lock
                continue
            yield handle
            path.unlink(missing_ok=True)
            return


def _flock(handle: TextIO, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not a POSIX system: the user must see to it that one process writes at a time
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        raise InputError(
            f"{path.parent} cannot be locked ({error.strerror}), so that two processes could write the same file: "
            "give a store on another disk"
        ) from error


def _is_same_file(handle: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False
