"""What a data SPEC (known name, hub id or local folder) means, found without reading images or importing torch."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from inoculate.artifacts.specs import fingerprint
from inoculate.core.errors import InputError
from inoculate.data.cache import cache_root, files_digest, read_cached, write_cached
from inoculate.data.layouts import list_folder

PathLike = str | os.PathLike[str]
_HUB_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True)
class Known:
    """A dataset with a name: its image size in pixels and, if the hub has it, its id there."""

    image_size: int
    hub_id: str | None


KNOWN = {
    "mnist": Known(28, "ylecun/mnist"),
    "cifar10": Known(32, "uoft-cs/cifar10"),
    "cats_vs_dogs": Known(96, "microsoft/cats_vs_dogs"),
    "digits": Known(32, None),
}


@dataclass(frozen=True)
class Source:
    """Where the images of a dataset are, before any is read.

    kind: digits | parquet | folders | hub. digest: hex hash of the files' names and bytes; for the hub, of id and
    revision. location: the folder, or the hub id. image_size: in pixels, for known names. notes: files left out.
    """

    name: str
    kind: str
    digest: str
    location: str
    revision: str = ""
    image_size: int | None = None
    notes: tuple[str, ...] = ()


def find_source(spec: PathLike, data_root: PathLike | None = None, *, cache: PathLike | None = None) -> Source:
    """The source that a data SPEC names: a known name, a hub id `owner/name`, or a local folder.

    `data_root` (else the variable INOCULATE_DATA) is searched first for `<name>/`, then the hub is asked. Raises
    `InputError` for an unknown name, a folder without a dataset, or a hub that does not answer.
    """
    text, cached = os.fspath(spec), cache_root(cache)
    if not text.strip():
        raise InputError(f"data is empty: give {', '.join(KNOWN)}, a hub id owner/name, or a folder")
    known = KNOWN.get(text)
    size = known.image_size if known else None
    if (folder := _under_root(text, data_root)) is not None:
        return _local(folder, text, size, cached)
    if known is not None:
        return _hub(text, known.hub_id, size, cached) if known.hub_id else _digits(size)
    path = Path(text).expanduser()
    if path.exists():
        return _local(path, path.resolve().name, None, cached)
    if _is_hub_id(text):
        return _hub(text, text, None, cached)
    if "/" in text or os.sep in text:
        raise InputError(f"there is no folder {text}: check the path")
    near = difflib.get_close_matches(text.lower(), KNOWN, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? Otherwise" if near else f"known are {', '.join(KNOWN)}; otherwise"
    raise InputError(f"unknown data {text!r}: {hint} give a hub id owner/name or a local folder")


def _under_root(text: str, data_root: PathLike | None) -> Path | None:
    chosen = data_root or os.environ.get("INOCULATE_DATA")
    if not chosen:
        return None
    root = Path(chosen).expanduser()
    if not root.is_dir():
        origin = "data root" if data_root else "INOCULATE_DATA"
        raise InputError(f"{origin} {root} is not a folder: give the folder that holds one folder per dataset")
    if "/" in text and not _is_hub_id(text):
        return None  # a path, which means itself
    names = [text, *text.split("/")[1:]]
    return next((root / name for name in names if name not in (".", "..") and (root / name).is_dir()), None)


def _is_hub_id(text: str) -> bool:
    owner, slash, name = text.partition("/")
    return bool(slash and owner and name) and "/" not in name and text[0] not in ".~/" and name not in (".", "..")


def _local(folder: Path, name: str, size: int | None, cache: Path) -> Source:
    listing = list_folder(folder)
    try:
        digest = files_digest(folder, listing.files, cache)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} is a link to a file that is not there: remove or correct it") from error
    except OSError as error:
        raise InputError(f"cannot read {error.filename} ({error.strerror}): check its permissions") from error
    return Source(name, listing.kind, digest, str(folder), "", size, listing.notes)


def _digits(size: int | None) -> Source:
    # the data have been the same in every release of scikit-learn
    return Source("digits", "digits", fingerprint({"sklearn": "load_digits", "shape": [1797, 8, 8]}), "", "", size)


def _hub(name: str, hub_id: str, size: int | None, cache: Path) -> Source:
    """Ask the hub for the current revision; when it does not answer, the last one seen is used."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    remembered = cache / "hub" / f"{fingerprint({'hub': hub_id})}.json"
    try:
        revision = HfApi().dataset_info(hub_id, timeout=_HUB_TIMEOUT).sha or ""
        write_cached(remembered, {"revision": revision})
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(
            f"there is no folder {name!r} and no public dataset {hub_id!r} on the hub: "
            "check the spelling, or log in with `hf auth login` if it is private"
        ) from error
    except Exception as error:  # every way in which a network can fail
        revision = str(read_cached(remembered).get("revision", ""))
        if not revision:
            raise InputError(
                f"cannot reach the hub for {hub_id!r} ({type(error).__name__}): go online, give a local folder, or "
                f"a data root (--data-root DIR) where DIR/{hub_id.split('/')[-1] if '/' in name else name} holds it"
            ) from error
    return Source(name, "hub", fingerprint({"hub": hub_id, "revision": revision}), hub_id, revision, size)
