"""The hardened network as an ONNX file that was checked on adversarial images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from inoculate.core.errors import InputError
from inoculate.core.extras import require
from inoculate.core.modes import device_of
from inoculate.core.row import Row
from inoculate.models.export.files import write_onnx
from inoculate.models.loading.onnx import OnnxModel

BATCH_SIZE = 256
MAX_DIFFERENT = 0.02  # of the predictions: some attacks end on the decision boundary, where rounding decides


@dataclass(frozen=True)
class OnnxCheck:
    """Predictions of the ONNX file on the `images` adversarial images of `attack`: how many are right, how many differ
    from the network's. `accuracy` is the network's own."""

    attack: str
    images: int
    correct: int
    different: int
    accuracy: float


def require_onnx() -> None:
    """Raise `InputError` if no ONNX file can be written or checked on this machine."""
    for package in ("onnx", "onnxruntime"):
        require(package, "onnx", "writing ONNX files")


def require_exportable(model: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Raise `InputError` if this network cannot be written as ONNX."""
    with TemporaryDirectory() as folder:
        write_onnx(model, Path(folder) / "model.onnx", image_shape)


def export_checked(model: nn.Module, images: Tensor, labels: Tensor, row: Row) -> tuple[bytes, OnnxCheck]:
    """The content of an ONNX file, and its predictions on the adversarial images of `row` (N×C×H×W in [0, 1]).

    Raises `InputError` where it predicts other classes than `model` on more than 2 % of them.
    """
    channels, height, width = images.shape[1:]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(model, path, (channels, height, width))
        exported = OnnxModel(path)
        with torch.no_grad():
            theirs = exported(images).argmax(dim=1)
        content = path.read_bytes()
    with torch.no_grad():
        parts = [model(part.to(device_of(model))).argmax(dim=1).cpu() for part in torch.split(images, BATCH_SIZE)]
    different, correct = int((theirs != torch.cat(parts)).sum()), int((theirs == labels).sum())
    if different > max(1, MAX_DIFFERENT * len(images)):
        raise InputError(
            f"model.onnx and the network disagree on {different} of {len(images)} adversarial images: do not use it; "
            "try another version of torch or onnxruntime"
        )
    return content, OnnxCheck(row.attack, len(images), correct, different, row.accuracy)
