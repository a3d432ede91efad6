"""What a model SPEC means: a timm name, a factory, a TorchScript or ONNX file, or a folder written by a training."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from inoculate.models.loading.checkpoints import DESCRIPTION, read_description
from inoculate.models.loading.factories import source_file
from inoculate.models.loading.onnx import onnx_image_shape
from inoculate.models.onnx.nodes import weight_files

TORCHSCRIPT, ONNX = (".ts", ".torchscript", ".pt", ".pth"), (".onnx",)
Kind = Literal["folder", "torchscript", "onnx", "factory", "name"]


def kind_of(spec: str) -> Kind:
    """What `spec` names, decided by its form and by whether it is a folder; whether it exists is not checked."""
    path = Path(spec)
    if path.is_dir():
        return "folder"
    if path.suffix in ONNX:
        return "onnx"
    if path.suffix in TORCHSCRIPT:
        return "torchscript"
    return "factory" if ":" in spec else "name"


def expected_size(spec: str) -> tuple[int, int] | None:
    """(image size, channels) that a trained folder or an ONNX file was made for; None where `spec` does not say."""
    kind, path = kind_of(spec), Path(spec)
    if kind == "folder":
        kept = read_description(path).spec
        return kept.image_size, kept.channels
    if kind != "onnx" or not path.is_file():
        return None
    channels, height, width = onnx_image_shape(path)
    return (height, channels) if height is not None and height == width and channels is not None else None


def brings_weights(spec: str) -> bool:
    """Whether `spec` means a model with weights: anything but a timm name."""
    return kind_of(spec) != "name"


def identity(spec: str) -> str:
    """`spec` and a hash of the files that define it: the same SPEC with another content is another model."""
    path = Path(spec)
    file = source_file(spec) if ":" in spec else path / DESCRIPTION if path.is_dir() else path
    if file is None or not file.is_file():
        return spec
    digest = hashlib.sha256(file.read_bytes())
    for other in weight_files(path) if kind_of(spec) == "onnx" else ():
        digest.update(other.read_bytes() if other.is_file() else b"")
    return f"{spec} {digest.hexdigest()}"
