"""From a data SPEC (known name, hub id or local folder) to images: found cheaply, decoded once, divided by seed."""

from __future__ import annotations

import difflib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inoculate.artifacts.specs import fingerprint
from inoculate.artifacts.store import Store
from inoculate.core.errors import InputError
from inoculate.data.cache import cache_root, files_digest, read_note, write_note
from inoculate.data.layouts import list_folder

if TYPE_CHECKING:
    from inoculate.data.dataset import Dataset
    from inoculate.data.pool import Pool, Progress
    from inoculate.data.readers import Shard

PathLike = str | os.PathLike[str]
PARTS = ("train", "val", "test", "all")
_HUB_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True)
class Known:
    """A dataset with a name of its own: its size in pixels and its id on the hub, if it is there."""

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
    """Where images are and which they are, before any is read.

    kind: digits | parquet | folders | hub. location: the folder, or the hub id. digest: hex hash of the files' names
    and bytes, for the hub of id and revision. image_size: pixels, for known names.
    """

    name: str
    kind: str
    digest: str
    location: str
    revision: str = ""
    image_size: int | None = None


def find_source(spec: PathLike, data_root: PathLike | None = None, *, cache: PathLike | None = None) -> Source:
    """Find what a data SPEC means, and its digest, without loading images or torch.

    `data_root` (else the variable INOCULATE_DATA) is searched first for `<name>/`, then the hub is asked.
    Raises InputError for an unknown name, a folder without a dataset, or a hub that does not answer.
    """
    text, notes = os.fspath(spec), cache_root(cache)
    if not text.strip():
        raise InputError(f"--data is empty: give {', '.join(KNOWN)}, a hub id owner/name, or a folder")
    known = KNOWN.get(text)
    size = known.image_size if known else None
    if (folder := _under_root(text, data_root)) is not None:
        return _local(folder, text, size, notes)
    if known is not None:
        return _hub(text, known.hub_id, size, notes) if known.hub_id else _digits(size)
    path = Path(text).expanduser()
    if path.exists():
        return _local(path, path.resolve().name, None, notes)
    if _is_hub_id(text):
        return _hub(text, text, None, notes)
    if "/" in text or os.sep in text:
        raise InputError(f"there is no folder {text}: check the path")
    near = difflib.get_close_matches(text.lower(), KNOWN, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? Otherwise" if near else f"known are {', '.join(KNOWN)}; otherwise"
    raise InputError(f"unknown data {text!r}: {hint} give a hub id owner/name or a local folder")


def load_pool(
    source: Source,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    cache: PathLike | None = None,
    progress: Progress | None = None,
) -> Pool:
    """All labelled images of a source as uint8 N×C×S×S, decoded once into the cache and memory-mapped from there.

    image_size: S in pixels; by default a known name's own, else the shorter side if a sample agrees on it (at most
    256), else 224. channels: 1 or 3; by default 1 if a sample is all grey. progress: called with images done and total.
    Non-square images are resized by their shorter side and cropped to the centre; unreadable ones are left out with a
    warning and listed in `split.skipped`. Raises InputError when more than 1 % are, or labels are wrong.
    """
    from inoculate.data import decode, pool

    if image_size is not None and not 1 <= image_size <= 4096:
        raise InputError(f"the image size must be 1 to 4096 pixels, got {image_size}")
    if channels not in (None, 1, 3):
        raise InputError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    root = cache_root(cache)
    shards: list[Shard] = []

    def opened() -> list[Shard]:
        shards.extend(() if shards else _open(source))
        return shards

    size = image_size or source.image_size
    if size is None or channels is None:
        note = root / "shapes" / f"{fingerprint({'source': source.digest, 'decoder': decode.VERSION})}.json"
        found = read_note(note)
        if not found:
            own_size, own_channels = pool.shape_of(opened(), source.name)
            write_note(note, found := {"size": own_size, "channels": own_channels})
        size, channels = size or int(found["size"]), channels or int(found["channels"])
    spec = {"source": source.digest, "size": size, "channels": channels, "decoder": decode.VERSION}

    def make(folder: Path) -> None:
        try:
            pool.write_pool(folder, opened(), source.name, size, channels, progress)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # nothing of it is worth keeping
            raise

    try:
        store = Store(root)
        if store.find("images", spec) is None:
            pool.sweep_partial(root / "images")
        return pool.read_pool(store.get_or_make("images", spec, make), source.name)
    except OSError as error:
        raise InputError(
            f"cannot keep decoded images in {root} ({error.strerror or error}): "
            "free space there, or set INOCULATE_CACHE to another folder"
        ) from error


def load_data(
    spec: PathLike,
    split: str = "train",
    *,
    data_root: PathLike | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    seed: int = 0,
    cache: PathLike | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """One part of a dataset: `train`, `val`, `test` or `all`; see `find_source` and `load_pool` for the arguments.

    `test` is the source's own test split if it has one, otherwise the seeded, stratified 20 %; the rest is shared
    between train and val 7:1 and never meets the test part. Raises InputError for what the user can mend.
    """
    if split not in PARTS:
        raise InputError(f"unknown split {split!r}: choose one of {', '.join(PARTS)}")
    source = find_source(spec, data_root, cache=cache)
    pool = load_pool(source, image_size=image_size, channels=channels, cache=cache, progress=progress)
    if split == "all":
        return pool.split
    if split == "test" and pool.had_test:
        return pool.split.subset(np.flatnonzero(pool.official_test))
    from inoculate.data.dataset import partition

    mask = pool.official_test if pool.had_test else None
    parts = partition(pool.split.labels, seed=seed, test_mask=mask, classes=pool.split.classes)
    return pool.split.subset({"train": parts.train, "val": parts.val, "test": parts.test}[split])


def _under_root(text: str, data_root: PathLike | None) -> Path | None:
    chosen = data_root or os.environ.get("INOCULATE_DATA")
    if not chosen:
        return None
    root = Path(chosen).expanduser()
    if not root.is_dir():
        origin = "--data-root" if data_root else "INOCULATE_DATA"
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
    except OSError as error:
        raise InputError(f"cannot read {error.filename} ({error.strerror}): check its permissions") from error
    return Source(name, listing.kind, digest, str(folder), "", size)


def _digits(size: int | None) -> Source:
    # the data have been the same in every release of scikit-learn
    return Source("digits", "digits", fingerprint({"sklearn": "load_digits", "shape": [1797, 8, 8]}), "", "", size)


def _hub(name: str, hub_id: str, size: int | None, cache: Path) -> Source:
    """Ask the hub which revision is current; when it does not answer, the one seen last will do."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    note = cache / "hub" / f"{fingerprint({'hub': hub_id})}.json"
    try:
        revision = HfApi().dataset_info(hub_id, timeout=_HUB_TIMEOUT).sha or ""
        write_note(note, {"revision": revision})
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(
            f"there is no folder {name!r} and no public dataset {hub_id!r} on the hub: "
            "check the spelling, or log in with `hf auth login` if it is private"
        ) from error
    except Exception as error:  # every way in which a network can fail
        revision = str(read_note(note).get("revision", ""))
        if not revision:
            raise InputError(
                f"cannot reach the hub for {hub_id!r} ({type(error).__name__}): go online, pass --data-root DIR "
                f"where DIR/{hub_id.split('/')[-1] if '/' in name else name} holds it, or give a local folder"
            ) from error
    return Source(name, "hub", fingerprint({"hub": hub_id, "revision": revision}), hub_id, revision, size)


def _open(source: Source) -> list[Shard]:
    from inoculate.data import readers

    if source.kind == "digits":
        return readers.digits_shards()
    if source.kind == "hub":
        return readers.hub_shards(source.location, source.revision)
    listing = list_folder(Path(source.location))
    return readers.parquet_shards(listing) if listing.kind == "parquet" else readers.folder_shards(listing)
