"""What a model SPEC means: a name, a model of the hub, a factory, a file, a folder of a training, or an address."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from inoculate.artifacts.files import file_digest
from inoculate.data.preprocessing import Size, as_size
from inoculate.models.loading.checkpoints import DESCRIPTION, read_description
from inoculate.models.loading.endpoint import SCHEMES
from inoculate.models.loading.factories import source_file
from inoculate.models.loading.hub import hub_identity
from inoculate.models.loading.onnx import onnx_image_shape
from inoculate.models.onnx.nodes import weight_files
from inoculate.models.pretrained import TIMM_HUB, TORCHVISION, TRANSFORMERS, input_config

TORCHSCRIPT, ONNX = (".ts", ".torchscript", ".pt", ".pth"), (".onnx",)
Kind = Literal["folder", "torchscript", "onnx", "factory", "hub", "name", "endpoint"]


def kind_of(spec: str) -> Kind:
    """What `spec` names, decided by its form and by whether it is a folder; whether it exists is not checked."""
    if spec.startswith((TIMM_HUB, TRANSFORMERS)):
        return "hub"
    if spec.startswith(SCHEMES):
        return "endpoint"
    if spec.startswith(TORCHVISION):
        return "name"
    path = Path(spec)
    if path.is_dir():
        return "folder"
    if path.suffix in ONNX:
        return "onnx"
    if path.suffix in TORCHSCRIPT:
        return "torchscript"
    return "factory" if ":" in spec else "name"


def expected_size(spec: str) -> tuple[Size, int] | None:
    """(image size, channels) that a trained model was made for; None where `spec` does not say."""
    kind, path = kind_of(spec), Path(spec)
    if kind == "hub" and (config := input_config(spec)) is not None:
        return as_size(*config.image_size), len(config.mean)
    if kind == "folder":
        kept = read_description(path).spec
        return kept.image_size, kept.channels
    if kind != "onnx" or not path.is_file():
        return None
    channels, height, width = onnx_image_shape(path)
    return None if height is None or width is None or channels is None else (as_size(height, width), channels)


def brings_weights(spec: str) -> bool:
    """Whether `spec` means a model with weights: anything but a name of an architecture."""
    return kind_of(spec) != "name"


def identity(spec: str) -> str:
    """`spec` and the hashes of the files that define it: the same SPEC with another content is another model."""
    path, kind = Path(spec), kind_of(spec)
    if kind == "endpoint":
        return spec
    if kind == "hub":
        file = hub_identity(spec)
    else:
        file = source_file(spec) if kind == "factory" else path / DESCRIPTION if kind == "folder" else path
    files = () if file is None else (file, *(weight_files(path) if kind == "onnx" else ()))
    return " ".join((spec, *(digest for each in files if (digest := file_digest(each)) is not None)))
