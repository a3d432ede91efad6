"""Content-addressed artefacts: a folder whose name is its spec's fingerprint, whole as soon as it has a manifest."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inoculate.artifacts.files import write_json
from inoculate.artifacts.specs import fingerprint

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Store:
    """Artefacts under `root/<kind>/<fingerprint>/`.

    An artefact is made in `<fingerprint>.partial` beside its final name and renamed when complete, so a reader never
    sees half of one. A partial folder outlives a crash: whoever makes the artefact next may resume from it.
    """

    root: Path

    def path(self, kind: str, spec: Mapping[str, Any]) -> Path:
        """Where the artefact of this spec is, or will be."""
        return self.root / kind / fingerprint(spec)

    def find(self, kind: str, spec: Mapping[str, Any]) -> Path | None:
        """The artefact's folder if it is there and whole (manifest present, every file of the recorded size)."""
        folder = self.path(kind, spec)
        return folder if is_whole(folder) else None

    def get_or_make(self, kind: str, spec: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder of this spec's artefact; `make(folder)` fills it when it is missing or damaged.

        `make` is handed the partial folder, which may hold what an interrupted run left there.
        """
        if found := self.find(kind, spec):
            return found
        final = self.path(kind, spec)
        partial = final.with_name(final.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        with _lock(final.with_name(final.name + ".lock")):
            if found := self.find(kind, spec):  # another process made it while we waited
                return found
            began = time.perf_counter()
            make(partial)
            seal(partial, spec, seconds=round(time.perf_counter() - began, 3))
            if final.exists():  # damaged: `find` refused it
                shutil.rmtree(final)
            os.replace(partial, final)
        return final


def seal(folder: Path, spec: Mapping[str, Any], **facts: Any) -> None:
    """Write the manifest that makes `folder` whole: its spec, the size of every file in it, and `facts` (JSON)."""
    files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    files.pop(MANIFEST, None)
    write_json(folder / MANIFEST, {"spec": dict(spec), "files": files, **facts})


def is_whole(folder: Path) -> bool:
    """Whether `folder` has a readable manifest and every file that it lists, at the recorded size."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an advisory lock, released by the system even when the process is killed."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system: one writer at a time is then up to the user
        yield
        return
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    path.unlink(missing_ok=True)
