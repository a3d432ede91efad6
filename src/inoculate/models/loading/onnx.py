"""ONNX files: read as classifiers, and written from networks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.core.copying import copy_module
from inoculate.core.errors import InputError, one_line
from inoculate.models.acceleration.cached_convolutions import CachedConv2d
from inoculate.models.acceleration.small_maps import SmallMapConv2d
from inoculate.models.class_names import names_in_metadata

_DTYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}


class OnnxModel(nn.Module):
    """The classifier in an ONNX file, run by onnxruntime on the CPU whatever the images' device. It has no gradient.

    Where the file fixes the batch size, images are run in batches of that size. `image_shape` is the (C, H, W) that it
    takes, with None where any size is taken. Raises `InputError` if the file cannot be read, or is not a classifier of
    float images.
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
        self.class_names = names_in_metadata(self._session.get_modelmeta().custom_metadata_map)
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
        logits = [self._run(images[start : start + size]) for start in range(0, len(images), size)]
        return torch.cat(logits)[: len(x)].to(x)

    def _run(self, images: Tensor) -> Tensor:
        try:
            (logits,) = self._session.run(None, {self._input: images.contiguous().numpy()})
        except Exception as error:  # onnxruntime's errors have no other common class
            raise InputError(
                f"model {self.path} cannot be run on {_times(images.shape)} images ({one_line(error)}): export it "
                "again for this image size, with a free batch size"
            ) from error
        return torch.from_numpy(logits)


def export_onnx(model: nn.Module, path: Path, image_shape: tuple[int, int, int]) -> None:
    """Write `model` (images in [0, 1], C×H×W = `image_shape` → logits), normalisation inside, with a free batch size.

    Raises `InputError` if the network cannot be exported.
    """
    plain = copy_module(model).cpu().eval()
    for module in plain.modules():
        if type(module) in (SmallMapConv2d, CachedConv2d):  # ONNX knows the plain layer only
            module.__class__ = nn.Conv2d
    free = {"images": {0: "batch"}, "logits": {0: "batch"}}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the newer exporter needs a further package
            torch.onnx.export(
                plain, (torch.rand(2, *image_shape),), str(path), input_names=["images"], output_names=["logits"],
                dynamic_axes=free, dynamo=False,
            )  # fmt: skip
    except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
        raise InputError(f"the network cannot be exported to ONNX ({one_line(error)}): leave --onnx out") from error


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"model {path} needs onnxruntime: pip install 'inoculate[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised, not printed
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no other common class
        raise InputError(f"model {path} cannot be loaded ({one_line(error)}): export it to ONNX again") from error


def _times(shape: Sequence[int | None]) -> str:
    return "×".join("any" if size is None else str(size) for size in shape)
