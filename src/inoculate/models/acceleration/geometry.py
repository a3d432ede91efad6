"""The geometry of a convolution: which input positions each output depends on, and its kernel as a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Pair = tuple[int, int]
GROWTH = 2  # times the size of its kernel that a matrix may have


@dataclass(frozen=True)
class ConvGeometry:
    """A kernel moved over a map of `size` to an output of `out`; each pair is (rows, columns).

    A 1×1 kernel depends on every `skip`-th position alone: its `size` is that of these positions, its `stride` is 1.
    """

    kernel: Pair
    stride: Pair
    padding: Pair
    size: Pair
    out: Pair
    skip: Pair = (1, 1)

    @classmethod
    def of(cls, conv: nn.Conv2d, shape: torch.Size) -> ConvGeometry | None:
        """None for inputs (B×C×h×w) or kinds of convolution that only the general routine takes, or refuses."""
        simple = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        if not simple or isinstance(conv.padding, str) or len(shape) != 4 or not shape[0]:
            return None
        kernel, stride, padding, size = map(_pair, (conv.kernel_size, conv.stride, conv.padding, shape[2:]))
        out = _pair(
            (extent + 2 * pad - length) // step + 1
            for extent, pad, length, step in zip(size, padding, kernel, stride, strict=True)
        )
        if min(out) < 1:
            return None
        if kernel == (1, 1) and padding == (0, 0):
            return cls(kernel, (1, 1), padding, out, out, stride)
        return cls(kernel, stride, padding, size, out)

    @property
    def is_small(self) -> bool:
        """Whether the matrix from all inputs to all outputs is not much larger than the kernel."""
        return self.size[0] * self.size[1] * self.out[0] * self.out[1] <= GROWTH * self.kernel[0] * self.kernel[1]

    def sampled(self, x: Tensor) -> Tensor:
        """The positions of `x` that the outputs depend on."""
        return x if self.skip == (1, 1) else x[:, :, :: self.skip[0], :: self.skip[1]]

    def windows(self) -> Iterator[tuple[Pair, tuple[slice, slice], tuple[slice, slice]]]:
        """For each output: its position, the part of the map under the kernel there, and that part of the kernel."""
        for row in range(self.out[0]):
            for column in range(self.out[1]):
                sides = zip((row, column), self.stride, self.padding, self.kernel, self.size, strict=True)
                (over, part), (over_across, part_across) = (_overlap(*side) for side in sides)
                yield (row, column), (over, over_across), (part, part_across)

    def matrix(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The kernel (O×I×kh×kw) as a matrix: rows are output positions × O, columns are map positions × I."""
        wide = weight.permute(0, 2, 3, 1)
        if self.out == (1, 1):
            ((_, over, part),) = self.windows()
            if [s.stop - s.start for s in over] == list(self.size):  # all of the map: a view of an fp32 kernel
                return wide[:, part[0], part[1]].to(dtype).flatten(1)
        matrix = weight.new_zeros(*self.out, weight.shape[0], *self.size, weight.shape[1], dtype=dtype)
        for at, over, part in self.windows():
            matrix[at[0], at[1], :, over[0], over[1]] = wide[:, part[0], part[1]].to(dtype)
        return matrix.flatten(3).flatten(0, 2)


def to_rows(maps: Tensor) -> Tensor:
    """B×C×h×w as B×(h·w·C): a view of channels-last tensors."""
    return maps.permute(0, 2, 3, 1).flatten(1)


def to_maps(rows: Tensor, size: Pair) -> Tensor:
    """The inverse of `to_rows` for maps of this height and width: channels-last."""
    return rows.view(len(rows), *size, -1).permute(0, 3, 1, 2)


def _pair(values: Any) -> Pair:
    first, second = values
    return int(first), int(second)


def _overlap(index: int, stride: int, padding: int, length: int, size: int) -> tuple[slice, slice]:
    """Along one side: the part of the map under the kernel of output `index`, and that part of the kernel."""
    start = index * stride - padding
    first, last = max(start, 0), max(min(start + length, size), max(start, 0))
    return slice(first, last), slice(first - start, last - start)
