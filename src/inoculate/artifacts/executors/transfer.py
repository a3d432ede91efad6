"""Artefacts as bytes, for machines that do not share a folder."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import uuid
import zipfile
from pathlib import Path

from inoculate.artifacts.files import umask, write_text
from inoculate.artifacts.store import MANIFEST, Store, is_complete

_IDENTITY = ".identity"  # a file in the store, by which a machine sees whether it has the same folder


def identify(store: Store) -> str:
    """The identity of a store, given to it if it has none."""
    if identity_of(store) is None:
        write_text(store.root / _IDENTITY, uuid.uuid4().hex)
    return str(identity_of(store))


def identity_of(store: Store) -> str | None:
    """The identity of a store; None for a folder that has none or that this machine does not see."""
    try:
        return (store.root / _IDENTITY).read_text()
    except OSError:
        return None


def pack(store: Store, name: str) -> bytes:
    """The files of the artefact `<kind>/<fingerprint>`."""
    folder, stream = store.root / name, io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:  # not compressed: weights and images would not shrink
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    return stream.getvalue()


def unpack(store: Store, name: str, content: bytes) -> None:
    """Put a packed artefact into `store`, at once or not at all; one that is there already is left alone."""
    folder = store.root / name
    if is_complete(folder):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    arrived = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".arriving", dir=folder.parent))
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(arrived)  # which keeps every file below the folder
        arrived.chmod(0o777 & ~umask())
        if not is_complete(arrived):
            raise OSError(f"artefact {name} did not arrive whole")
        if folder.exists():  # damaged
            shutil.rmtree(folder)
        os.replace(arrived, folder)
    except OSError:
        if not is_complete(folder):  # else another process was quicker
            raise
    finally:
        shutil.rmtree(arrived, ignore_errors=True)


def names(store: Store) -> set[str]:
    """The complete artefacts of a store."""
    found = (path.parent for path in store.root.glob(f"*/*/{MANIFEST}"))
    return {f"{folder.parent.name}/{folder.name}" for folder in found if folder.suffix == ""}
