"""The layout of a local dataset: parquet shards as the hub stores them, or one folder per class."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from inoculate.core.errors import InputError

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_IMAGES = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
_SHARD = re.compile(r"(?P<split>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})(?:-[0-9a-f]+)?$")


@dataclass(frozen=True)
class Listing:
    """The files of a dataset, the split of each and, in class folders only, the class of each."""

    kind: str  # parquet | folders
    base: Path
    files: tuple[Path, ...]
    splits: tuple[str, ...]
    labels: tuple[str, ...] = ()


def list_folder(folder: Path) -> Listing:
    """List the images of a local folder. Raises `InputError` when it is missing, empty or laid out differently."""
    if not folder.exists():
        raise InputError(f"there is no folder {folder}: check the path")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file: give the folder that holds the parquet shards or the class folders")
    if not any(folder.iterdir()):
        raise InputError(f"the folder {folder} is empty: it needs parquet shards or one folder of images per class")
    return _parquet(folder) or _class_folders(folder)


def split_of(name: str) -> str:
    """train, validation or test, from the name of a split, a folder or a shard; train when the name holds none."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), "train")


def _visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def _folders(folder: Path) -> list[Path]:
    return [p for p in _visible(folder) if p.is_dir()]


def _shards(folder: Path) -> list[Path]:
    names = sorted(n for n in os.listdir(folder) if n.lower().endswith(".parquet") and not n.startswith("."))
    return [folder / name for name in names if (folder / name).is_file()]


def _parquet(folder: Path) -> Listing | None:
    files = _shards(folder) or (_shards(folder / "data") if (folder / "data").is_dir() else [])
    if not files:
        holders = [p for p in _folders(folder) if _shards(p)]
        if holders and all(p.name.lower() in _SPLITS for p in holders):
            files = [file for holder in holders for file in _shards(holder)]
        elif len(holders) == 1:
            files = _shards(holders[0])  # one configuration, as the hub lays out `mnist/train-00000-of-00001.parquet`
        elif holders:
            names = ", ".join(p.name for p in holders)
            raise InputError(f"{folder} holds several datasets of parquet shards ({names}): give one of these folders")
    if not files:
        return None
    _check_complete(files)
    return Listing("parquet", folder, tuple(files), tuple(_shard_split(folder, file) for file in files))


def _shard_split(folder: Path, file: Path) -> str:
    if file.parent != folder and file.parent.name.lower() in _SPLITS:
        return _SPLITS[file.parent.name.lower()]
    numbered = _SHARD.match(file.stem)
    return split_of(numbered["split"] if numbered else file.stem)


def _check_complete(files: list[Path]) -> None:
    """Raise `InputError` where a numbered shard is missing: the dataset would silently be smaller."""
    found: dict[tuple[Path, str, int], set[int]] = {}
    for file in files:
        if numbered := _SHARD.match(file.stem):
            key = (file.parent, numbered["split"], int(numbered["parts"]))
            found.setdefault(key, set()).add(int(numbered["part"]))
    for (parent, split, parts), present in found.items():
        if missing := sorted(set(range(parts)) - present):
            raise InputError(
                f"{parent}: shard {split}-{missing[0]:05d}-of-{parts:05d} is missing "
                f"({len(missing)} of {parts} are): copy the whole dataset"
            )


def _class_folders(folder: Path) -> Listing:
    tops = _folders(folder)
    if not tops:
        raise InputError(
            f"{folder} has no class folders and no parquet shards: put the images of each class in a folder"
        )
    named = [p for p in tops if p.name.lower() in _SPLITS and _folders(p)]
    if named and len(named) < len(tops):
        other = next(p for p in tops if p not in named)
        raise InputError(
            f"{folder}: {named[0].name}/ holds class folders but {other.name}/ lies beside it: move it away"
        )
    files: list[Path] = []
    splits: list[str] = []
    labels: list[str] = []
    for split, top in [(_SPLITS[p.name.lower()], p) for p in named] or [("train", folder)]:
        for class_folder in _folders(top):
            images = _images(class_folder)
            if not images:
                raise InputError(f"the class folder {class_folder} holds no images: add some, or remove the folder")
            files += images
            splits += [split] * len(images)
            labels += [class_folder.name] * len(images)
    if len(set(labels)) < 2:
        raise InputError(f"{folder} has one class only ({labels[0]}): a classifier needs at least 2 class folders")
    return Listing("folders", folder, tuple(files), tuple(splits), tuple(labels))


def _images(class_folder: Path) -> list[Path]:
    """Image files at any depth. Links to folders are followed; a folder that is reached twice counts once.

    Paths are strings here: pathlib's own search takes seconds on tens of thousands of files.
    """
    found: list[str] = []
    visited: set[str] = set()
    for parent, folders, files in os.walk(class_folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(parent, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in _IMAGES
        ]
    return [Path(name) for name in sorted(found)]
