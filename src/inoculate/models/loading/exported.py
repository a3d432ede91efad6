"""Classifiers that others exported: TorchScript and ONNX files. Nothing is unpickled."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.core.errors import InputError, one_line

TORCHSCRIPT, ONNX = (".ts", ".torchscript", ".pt", ".pth"), (".onnx",)
_DTYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}


def load_torchscript(path: Path) -> nn.Module:
    """The module that `torch.jit.save` wrote, on the CPU; gradients pass through it.

    A pickle, which is what `torch.save` writes, is told by its contents and never opened. Raises `InputError`.
    """
    if not _holds_code(path):
        raise InputError(
            f"model {path} is no TorchScript file but a pickle or damaged, and pickles are never opened: export it "
            "with torch.jit.script(model).save('model.ts'), or give file.py:factory and --weights as safetensors"
        )
    try:
        with warnings.catch_warnings():  # deprecated, but such files will be about for years
            warnings.simplefilter("ignore", FutureWarning)
            model: nn.Module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"model {path} cannot be loaded ({one_line(error)}): export it again with this torch"
        ) from error
    return model


def load_onnx(path: Path) -> nn.Module:
    """The file as an `OnnxModel`; raises `InputError` if it cannot be read, or is no classifier of float images."""
    return OnnxModel(path)


class OnnxModel(nn.Module):
    """An ONNX file as a classifier, run by onnxruntime on the CPU wherever the images are. It has no gradient.

    Where the file fixes the batch size, images are run in pieces of that size. `image_shape` is the (C, H, W) that it
    takes, with None where any size will do.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self._session = path, _session(path)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise InputError(
                f"model {path} has {len(inputs)} inputs and {len(outputs)} outputs: "
                "export it with the images as its one input and the logits as its one output"
            )
        sizes = [size if isinstance(size, int) and size > 0 else None for size in inputs[0].shape] or [None] * 4
        if inputs[0].type not in _DTYPES or len(sizes) != 4 or (sizes[3] in (1, 3) and sizes[1] not in (1, 3)):
            raise InputError(
                f"model {path} takes {inputs[0].type} of shape {inputs[0].shape}: "
                "export it for float images, batch × channels × height × width"
            )
        self._input, self._dtype = inputs[0].name, _DTYPES[inputs[0].type]
        self.batch, self.image_shape = sizes[0], tuple(sizes[1:])

    def forward(self, x: Tensor) -> Tensor:
        if any(want not in (None, got) for want, got in zip(self.image_shape, x.shape[1:], strict=True)):
            raise InputError(
                f"model {self.path} takes {_times(self.image_shape)} images and these are {_times(x.shape[1:])}: "
                "load the data at the model's image size and channels"
            )
        size = self.batch or max(len(x), 1)
        missing = -len(x) % size if len(x) else size
        images = F.pad(x.detach().to("cpu", self._dtype), (0, 0, 0, 0, 0, 0, 0, missing))
        pieces = [self._run(images[start : start + size]) for start in range(0, len(images), size)]
        return torch.cat(pieces)[: len(x)].to(x)

    def _run(self, images: Tensor) -> Tensor:
        try:
            (logits,) = self._session.run(None, {self._input: images.contiguous().numpy()})
        except Exception as error:  # onnxruntime's errors have nothing else in common
            raise InputError(
                f"model {self.path} cannot be run on {_times(images.shape)} images ({one_line(error)}): export it "
                "again for this image size, with a free batch size"
            ) from error
        return torch.from_numpy(logits)


def _holds_code(path: Path) -> bool:
    """Whether the file is an archive with TorchScript code in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"model {path} needs onnxruntime: pip install 'inoculate[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised, not printed
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have nothing else in common
        raise InputError(f"model {path} cannot be loaded ({one_line(error)}): export it to ONNX again") from error


def _times(shape: Any) -> str:
    return "×".join("any" if size is None else str(size) for size in shape)
