"""Weights of the user's from a file: safetensors, or what `torch.save` wrote, read without running any code of it."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from inoculate.core.errors import InputError, one_line

TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".tar", ".pkl", ".pickle")
MOST_NESTED = 3  # dictionaries inside each other
# How other kinds of files begin.
_OTHERS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: fetch it with git lfs pull",
    b"\x89HDF": "an HDF5 file of Keras: convert it to PyTorch",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"\x93NUMPY": "a NumPy array: save the network's state dict",
}
_WEB_PAGE = "a web page, not weights: download the file itself"


@dataclass(frozen=True)
class StateDict:
    """Tensors by name, from one place in a file: the keys that lead there, such as `state_dict`; none for the top."""

    tensors: Mapping[str, Tensor]
    place: tuple[str, ...] = ()


def read_state_dicts(path: Path) -> list[StateDict]:
    """Every state dict in a file, at most `MOST_NESTED` keys deep; those of optimizers are left out.

    A safetensors file holds one. Raises `InputError` if the file is missing, damaged, a pickle of anything but tensors
    and plain values, or holds none.
    """
    if path.is_dir():
        raise InputError(f"weights {path} is a folder: give the file of weights in it")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise InputError(f"weights {path} cannot be read ({error.strerror}): check the path") from error
    if other := _other_kind(start):
        raise InputError(f"weights {path} are {other}")
    found = _read(path, start)
    if isinstance(found, Tensor):
        raise InputError(f"weights {path} hold one tensor, not a state dict: save model.state_dict()")
    if not isinstance(found, Mapping):
        raise InputError(f"weights {path} hold a {type(found).__name__}, not a state dict: save model.state_dict()")
    states = list(_nested(found, ()))
    if not states:
        raise InputError(f"weights {path} {_without_weights(found)}")
    for name, tensor in (item for state in states for item in state.tensors.items()):
        if tensor.is_meta or tensor.layout != torch.strided:
            kind = "without values (meta)" if tensor.is_meta else "sparse"
            raise InputError(f"weights {path} are {kind}, at least '{name}': save them as dense tensors")
    return states


def holds_state_dict(path: Path) -> bool:
    """Whether a file is one that `read_state_dicts` reads."""
    try:
        return bool(read_state_dicts(path))
    except InputError:
        return False


def without_network(path: Path) -> InputError:
    """The error for a file of weights that is given as a model."""
    return InputError(
        f"model {path} is a file of weights without a network: give both, --model ARCHITECTURE --weights {path}, with "
        "a name such as resnet18 or file.py:factory"
    )


def _read(path: Path, start: bytes) -> Any:
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, ValueError) as error:
            kind = "a pickle" if _is_pickle(start) else "damaged"
            cure = "give it the ending .pth" if _is_pickle(start) else "download or save them again"
            raise InputError(f"weights {path} are {kind}, not safetensors: {cure}") from error
    if holds_code(path):
        raise InputError(f"weights {path} are a TorchScript file, which is a whole model: give it as --model {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _is_pickle(start):
            raise _damaged(path) from error
        raise InputError(
            f"weights {path} are a pickle that holds more than tensors and plain values ({_forbidden(error)}), and is "
            "not opened: where you trust it, save its state dict alone with safetensors.torch.save_file"
        ) from error
    except Exception as error:  # zip, storage and pickle errors of every kind
        raise _damaged(path, one_line(error)) from error


def _other_kind(start: bytes) -> str:
    """What a file is that begins so, and what to do, if it cannot hold weights."""
    if not start.strip(b"\0"):
        return "an empty file: download or save them again"
    text = start.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return _WEB_PAGE
    if text.startswith(b"{") and (b'"weight_map"' in text or b'"metadata"' in text):
        return "the index of several files: join these into one"
    return next((kind for magic, kind in _OTHERS.items() if start.startswith(magic)), "")


def _is_pickle(start: bytes) -> bool:
    return start.startswith(b"PK") or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def holds_code(path: Path) -> bool:
    """Whether a file is an archive with TorchScript code in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _damaged(path: Path, reason: str = "") -> InputError:
    return InputError(
        f"weights {path} are damaged, or no weights of PyTorch{f' ({reason})' if reason else ''}: download or save "
        "them again, as safetensors or a state dict"
    )


def _forbidden(error: BaseException) -> str:
    """The class that a refused pickle asks for, from torch's long message."""
    words = str(error).split()
    after = [words[at + 1] for at, word in enumerate(words[:-1]) if word in ("GLOBAL", "global:", "Unsupported")]
    names = [word for word in after if "." in word] or [word for word in words if word.count(".") and "(" not in word]
    return names[0].strip("`'\",:;") if names else type(error).__name__


def _nested(found: Mapping[Any, Any], place: tuple[str, ...]) -> Iterator[StateDict]:
    """The state dicts in a dictionary, itself first: those of its tensors, and those of dictionaries inside it."""
    if "param_groups" in found:  # of an optimizer
        return
    named = {key: value for key, value in found.items() if isinstance(key, str)}
    if tensors := {key: value.detach() for key, value in named.items() if isinstance(value, Tensor)}:
        yield StateDict(tensors, place)
    for key, value in named.items():
        if isinstance(value, Mapping) and len(place) < MOST_NESTED and "optim" not in key.lower():
            yield from _nested(value, (*place, key))


def _without_weights(found: Mapping[Any, Any]) -> str:
    if not found:
        return "are an empty dictionary: save model.state_dict()"
    keys = ", ".join(map(str, list(found)[:5]))
    if "param_groups" in found or any("optim" in str(key).lower() for key in found):
        return f"hold the state of an optimizer and no network ({keys}): save model.state_dict() too"
    return f"hold no tensors ({keys}): save model.state_dict()"
