"""The job `export`: a network as a file for deployment, compared with the original on real images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from torch import Tensor, nn

from inoculate.artifacts.files import write_bytes
from inoculate.artifacts.output import require_writable_file
from inoculate.core.calls import call
from inoculate.core.errors import InputError
from inoculate.core.modes import device_of, dtype_for, frozen
from inoculate.core.options import require_one_of
from inoculate.core.pixels import to_float
from inoculate.data.dataset import Dataset
from inoculate.data.load import DataLike
from inoculate.evaluation.calibration import calibration_images
from inoculate.evaluation.inputs import random_weights_warning, resolve_data, resolve_model
from inoculate.models.class_names import stored_names
from inoculate.models.export.files import SUFFIXES, WRITERS, read_back, write_class_names
from inoculate.models.loading.load import ModelLike
from inoculate.models.loading.onnx import OnnxModel
from inoculate.models.loading.specs import ONNX, TORCHSCRIPT

Format = Literal["onnx", "int8", "torchscript"]
COMPARED, BATCH = 256, 64  # images
TOLERANCE = 1e-3  # of the logits' spread, in fp32
LEAST_AGREEMENT = 0.99  # of the predictions of int8


@dataclass(frozen=True)
class Exported:
    """A file that `export` wrote, and how its logits compare with those of the original.

    Fields:
        path: of the file.
        to: its format.
        size: in bytes.
        images: on how many the two were compared.
        difference: the largest between two logits, in units of the spread of the original's (largest minus smallest).
        agreement: the share of the images of which both predict the same class, in [0, 1].
        warnings: what looks wrong, one line each.
        notes: how images were read, one line each.
    """

    path: Path
    to: Format
    size: int
    images: int
    difference: float
    agreement: float
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.path} ({self.to}, {self.size / 1e6:.2f} MB): read back and compared on {self.images} images, the "
            f"same class on {self.agreement:.1%}, logits within {self.difference:.1g} of their spread"
        )


def export(
    model: ModelLike,
    data: DataLike,
    out: str | os.PathLike[str],
    to: Format = "onnx",
    *,
    calibration: DataLike | None = None,
    seed: int = 0,
) -> Exported:
    """Write a network for deployment, read the file back, and compare its logits with the original's on images.

    The file takes what the model takes: float images in [0, 1], B×C×H×W with any B. ONNX files hold the class names.

    Args:
        model: as for `evaluate`.
        data: as for `evaluate`; at most 256 of its images are used.
        out: the file, `.onnx` for `onnx` and `int8`, `.ts` or `.pt` for `torchscript`. An existing one is replaced.
        to: `onnx`; `int8`, an ONNX file with weights and activations of eight bits (onnxruntime's static quantisation);
            `torchscript` (traced).
        calibration: images on which `int8` is calibrated: by default the training part of a data SPEC, else `data`.
        seed: of the choice of images.

    Raises `InputError` where the network cannot be written so, and where the logits of an `onnx` or `torchscript` file
    differ from the original's: nothing is written then.
    """
    path = _require_format(to, out)
    images = resolve_data(data, model)
    network = resolve_model(model, images, "cpu")
    some = images.limit(min(COMPARED, len(images)), seed=seed)
    x, notes = to_float(some.images), list(images.notes)
    logits = _logits(network, x)
    if to == "onnx" and isinstance(network, OnnxModel):
        raise InputError(f"model {network.path} is an ONNX file: there is nothing to export, use the file itself")
    shown = x
    if to == "int8":
        shown, more = calibration_images(calibration, data, model, images, seed)
        notes += more
    with TemporaryDirectory() as folder:
        written = Path(folder) / f"model{SUFFIXES[to]}"
        WRITERS[to](network, written, shown)
        if to != "torchscript":
            _name_classes(written, network, logits.shape[1], images)
        found = _logits(read_back(written, x[:3]), x)
        content = written.read_bytes()
    difference, agreement = _compared(logits, found)
    if to != "int8" and not difference <= TOLERANCE:
        raise InputError(
            f"the logits of the {to} file differ from the network's by {difference:.2g} of their spread on {len(x)} "
            "images, so it was not written: look for what depends on the batch, on random numbers or on values "
            "in the network's forward"
        )
    warnings = random_weights_warning(model)
    if agreement < LEAST_AGREEMENT:
        warnings.append(
            f"the {to} file predicts another class on {1 - agreement:.1%} of {len(x)} images: calibrate it on other "
            "images, and measure it as a variant before it is deployed"
        )
    write_bytes(path, content)
    return Exported(path, to, len(content), len(x), difference, agreement, tuple(warnings), tuple(notes))


def _require_format(to: str, out: object) -> Path:
    """The path; raises `InputError` for another format, and where it cannot be written or its ending is another's."""
    require_one_of(tuple(WRITERS), to=to)
    if not isinstance(out, str | os.PathLike):
        raise InputError(f"out is {out!r}: give the path of a file")
    path = Path(out)
    endings = TORCHSCRIPT if to == "torchscript" else ONNX
    if path.suffix not in endings:
        raise InputError(f"{path} does not end like a {to} file: give a name that ends in {' or '.join(endings)}")
    require_writable_file(path)
    return path


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    """The logits (B×K, fp32, on the CPU) of a model."""
    device, dtype = device_of(model), dtype_for(model)
    with frozen(model), torch.no_grad():
        parts = [call(model, part.to(device, dtype)).float().cpu() for part in torch.split(x, BATCH)]
    return torch.cat(parts)


def _compared(expected: Tensor, found: Tensor) -> tuple[float, float]:
    """The largest difference in units of the spread, infinite where shapes differ, and the share of equal classes."""
    if expected.shape != found.shape or not bool(found.isfinite().all()):
        return float("inf"), 0.0
    spread = max(float(expected.max() - expected.min()), 1e-30)
    same = (expected.argmax(dim=1) == found.argmax(dim=1)).float().mean()
    return float((expected - found).abs().max()) / spread, float(same)


def _name_classes(path: Path, network: nn.Module, outputs: int, data: Dataset) -> None:
    own = stored_names(network, outputs)
    names = data.classes if own is None else own.names
    if len(names) == outputs:
        write_class_names(path, names)
