"""What convolutions and pooling share: strides, dilations and padding of the windows over an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from inoculate.models.onnx.nodes import Node


@dataclass(frozen=True)
class Windows:
    """Kernel, stride and dilation along each side of an image; ONNX's attributes with their defaults."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(cls, node: Node, kernel: Sequence[int]) -> Windows:
        """The windows of a node whose kernel is so large."""
        ones = [1] * len(kernel)
        return cls(tuple(kernel), tuple(node.get("strides", ones)), tuple(node.get("dilations", ones)))

    @property
    def extent(self) -> list[int]:
        """The side of a window, gaps of the dilation included."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]

    def padding(self, node: Node, size: Sequence[int]) -> tuple[list[int], list[int]]:
        """Padding before and after each side of an image of this size, by `pads` or `auto_pad`."""
        sides, auto = len(self.kernel), node.get("auto_pad", "NOTSET")
        if auto in ("NOTSET", "VALID"):
            pads = list(node.get("pads", [0] * 2 * sides)) if auto == "NOTSET" else [0] * 2 * sides
            return pads[:sides], pads[sides:]
        total = [
            max((math.ceil(length / stride) - 1) * stride + extent - length, 0)
            for length, stride, extent in zip(size, self.stride, self.extent, strict=True)
        ]
        small, large = [each // 2 for each in total], [each - each // 2 for each in total]
        return (small, large) if auto == "SAME_UPPER" else (large, small)


def pad(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """`x` with its last sides padded."""
    amounts = [each for pair in zip(reversed(before), reversed(after), strict=True) for each in pair]
    return F.pad(x, amounts, value=value) if any(amounts) else x
