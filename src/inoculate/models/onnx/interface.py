"""What an ONNX file takes and gives: how its images are laid out, and which of its outputs holds the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inoculate.core.errors import InputError

COLOURS = (1, 3)  # channels by which a layout is recognised
FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)", "tensor(bfloat16)")


@dataclass(frozen=True)
class ImageInput:
    """The one input of a file.

    dtype: of its numbers; uint8 means pixels from 0 to 255. batch: the number of images that the file fixes. shape:
    (C, H, W), None where any size is taken. channels_last: whether the file wants batch × height × width × channels.
    """

    name: str
    dtype: torch.dtype
    batch: int | None
    shape: tuple[int | None, ...]
    channels_last: bool

    @property
    def whole_numbers(self) -> bool:
        """Whether pixels are whole numbers from 0 to 255."""
        return self.dtype is torch.uint8

    def prepared(self, x: Tensor) -> Tensor:
        """Images (B×C×H×W in [0, 1]) as floats of the file's layout and units.

        Where the file takes whole numbers they are rounded. The gradient passes the rounding unchanged, as if it were
        the identity (straight-through).
        """
        if self.whole_numbers:
            x = x * 255
            x = x.detach().round().clamp(0, 255) + (x - x.detach())
        return x.permute(0, 2, 3, 1) if self.channels_last else x

    def batches(self, x: Tensor) -> list[Tensor]:
        """`x` in batches of the size that the file fixes, the last filled up with zeros; else as one batch."""
        size = self.batch or max(len(x), 1)
        missing = -len(x) % size if len(x) else size
        filled = F.pad(x, (0, 0) * (x.ndim - 1) + (0, missing))
        return [filled[start : start + size] for start in range(0, len(filled), size)]


def image_input(path: Path, proto: Any) -> ImageInput:
    """The input of a file (`onnx.ModelProto`) that takes images. Raises `InputError` for any other."""
    import onnx

    weights = {each.name for each in proto.graph.initializer}
    inputs = [each for each in proto.graph.input if each.name not in weights]
    if len(inputs) != 1:
        raise InputError(
            f"model {path} has {len(inputs)} inputs ({_names(each.name for each in inputs)}): "
            "export it with the images as its one input"
        )
    kind = inputs[0].type.tensor_type
    sizes = [each.dim_value if each.dim_value > 0 else None for each in kind.shape.dim]
    sizes = sizes if kind.HasField("shape") else [None] * 4
    types = onnx.TensorProto
    dtypes = {
        types.FLOAT: torch.float32, types.FLOAT16: torch.float16, types.DOUBLE: torch.float64, types.UINT8: torch.uint8,
    }  # fmt: skip
    if kind.elem_type not in dtypes or len(sizes) != 4:
        text = "×".join(each.dim_param or str(each.dim_value or "any") for each in kind.shape.dim)
        raise InputError(
            f"model {path} takes {types.DataType.Name(kind.elem_type).lower()} of shape {text}: export it for float or "
            "uint8 images, batch × channels × height × width or batch × height × width × channels"
        )
    last = sizes[3] in COLOURS and sizes[1] not in COLOURS
    shape = (sizes[3], sizes[1], sizes[2]) if last else tuple(sizes[1:])
    return ImageInput(inputs[0].name, dtypes[kind.elem_type], sizes[0], shape, last)


@dataclass(frozen=True)
class Output:
    """An output as onnxruntime describes it: a type such as `tensor(float)`, and sizes (a text for any)."""

    name: str
    type: str
    shape: Sequence[int | str | None]

    def __str__(self) -> str:
        return f"{self.name} ({self.type} {'×'.join('any' if each is None else str(each) for each in self.shape)})"


def logits_output(path: Path, outputs: Sequence[Output], classes: int | None) -> Output:
    """The output that holds the logits: the only one; else the only B×K of floats, or of these the one named so.

    `classes`, if known, is K. Raises `InputError` where it is not decided.
    """
    floats = [each for each in outputs if each.type in FLOATS]
    if not floats:
        raise InputError(
            f"model {path} gives {_names(outputs)}, no floating-point numbers: an attack needs the logits, "
            "export the file with them as output"
        )
    if len(outputs) == 1:
        return floats[0]
    matrices = [each for each in floats if len(each.shape) == 2]
    fitting = [each for each in matrices if each.shape[1] == classes] or matrices
    named = [each for each in fitting if "logit" in each.name.lower()]
    for candidates in (fitting, named):
        if len(candidates) == 1:
            return candidates[0]
    raise InputError(
        f"model {path} has several outputs and it is not clear which holds the logits ({_names(outputs)}): "
        "export it with the logits as its one output, or name that output 'logits'"
    )


def _names(each: Any) -> str:
    return ", ".join(map(str, each))
