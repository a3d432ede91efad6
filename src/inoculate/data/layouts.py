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
_IMAGES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".avif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".tga"),
}
# what systems leave in folders, beside names that begin with a dot
_LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information"}
_SHARD = re.compile(r"(?P<split>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})(?:-[0-9a-f]+)?$")


@dataclass(frozen=True)
class Listing:
    """The files of a dataset, the split of each and, in class folders only, the class of each.

    kind: parquet | folders. notes: files that are left out, in sentences.
    """

    kind: str
    base: Path
    files: tuple[Path, ...]
    splits: tuple[str, ...]
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


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
    return sorted(p for p in folder.iterdir() if not _is_litter(p.name))


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LITTER


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
    walk = _Walk(folder)
    files: list[Path] = []
    splits: list[str] = []
    labels: list[str] = []
    for split, top in [(_SPLITS[p.name.lower()], p) for p in named] or [("train", folder)]:
        walk.others += [p for p in _visible(top) if _is_image(p.name) and p.is_file()]
        for class_folder in _folders(top):
            images = walk.images(class_folder)
            if not images:
                raise _no_images(class_folder, walk.others)
            files += images
            splits += [split] * len(images)
            labels += [class_folder.name] * len(images)
    if len(set(labels)) < 2:
        inner = (
            f": if {tops[0].name}/ holds the class folders, give {tops[0]}" if not named and _folders(tops[0]) else ""
        )
        raise InputError(
            f"{folder} has one class only ({labels[0]}): a classifier needs at least 2 class folders{inner}"
        )
    return Listing("folders", folder, tuple(files), tuple(splits), tuple(labels), _left_out(folder, walk.others))


def _no_images(class_folder: Path, others: list[Path]) -> InputError:
    kinds = sorted({p.suffix or p.name for p in others if class_folder in p.parents})
    found = f" (only {', '.join(kinds[:3])} files)" if kinds else ""
    return InputError(
        f"the class folder {class_folder} holds no images{found}: add some, as .png or .jpg, or remove the folder"
    )


def _left_out(folder: Path, others: list[Path]) -> tuple[str, ...]:
    """A note on files that are not taken for images of a class."""
    if not others:
        return ()
    names = [p.relative_to(folder).as_posix() for p in others[:3]] + ["…"] * (len(others) > 3)
    what = "1 file that is no image" if len(others) == 1 else f"{len(others)} files that are no images"
    return (f"{what} of a class {'was' if len(others) == 1 else 'were'} left out ({', '.join(names)})",)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _IMAGES


class _Walk:
    """Searches class folders at any depth. Links to folders are followed; a folder that is reached twice counts once.

    `others` collects files that are not images. Paths are strings here: pathlib's own search takes seconds on tens of
    thousands of files.
    """

    def __init__(self, base: Path) -> None:
        self.others: list[Path] = []
        self._base, self._owners = base, dict[str, Path]()

    def images(self, class_folder: Path) -> list[Path]:
        """Its image files, sorted. Raises `InputError` if a link leads into the folder of another class or split."""
        found: list[str] = []
        above = {
            str(p) for start in (self._base, class_folder.parent) for p in (start.resolve(), *start.resolve().parents)
        }
        above |= {str(p) for p in class_folder.resolve().parents}
        visited: set[str] = set()
        for parent, folders, files in os.walk(class_folder, followlinks=True):
            real = os.path.realpath(parent)
            if real in visited or real in above:  # a link to where it was, or upwards: a circle
                folders.clear()
                continue
            visited.add(real)
            if (owner := self._owners.setdefault(real, class_folder)) != class_folder:
                raise InputError(
                    f"{parent} and {owner} are the same folder, so its images would count in both: remove the link"
                )
            folders[:] = sorted(name for name in folders if not _is_litter(name))
            files = sorted(name for name in files if not _is_litter(name))
            found += [os.path.join(parent, name) for name in files if _is_image(name)]
            self.others += [Path(parent, name) for name in files if not _is_image(name)]
        return [Path(name) for name in sorted(found)]
