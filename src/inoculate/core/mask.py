"""Masks: which pixels of an image may change."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from inoculate.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

_REGIONS = "write center:SHARE with a share of each side, such as center:0.5, or border:PIXELS, such as border:2"


@dataclass(frozen=True, eq=False)
class Mask:
    """The pixels that may change, the same for all images or for each its own. Two masks of equal pixels are equal.

    Fields:
        pixels: bool, True where a pixel may change: 1×c×H×W for all images or N×c×H×W for one each, where c is 1 (all
            channels of a pixel) or the images' channels.
        per_image: whether each image has its own.
        name: what it is called in rows: a region, or a text that ends in the hash of the pixels.
    """

    pixels: Tensor
    per_image: bool = False
    name: str = ""

    @classmethod
    def of(cls, pixels: Any, name: str = "") -> Mask:
        """A mask from an array or tensor: H×W or C×H×W for all images, N×C×H×W or N×1×H×W for one each.

        The values are truth values, or 0 and 1, or 0 and 255. `name` is what it is called in rows, with the hash of the
        pixels, so that two masks are never taken for one. Raises `InputError` for another shape, other values, and
        where no pixel of an image may change.
        """
        import torch

        values = torch.as_tensor(pixels).detach().cpu()
        if values.ndim not in (2, 3, 4) or not values.numel():
            shape = "×".join(map(str, values.shape)) or "a number"
            raise InputError(f"mask is {shape}: give H×W, C×H×W, or N×C×H×W with one for each of N images")
        if values.dtype is not torch.bool:
            top = 255 if bool((values == 255).any()) else 1
            grey = ((values != 0) & (values != top)).flatten()
            if grey.any():
                value = values.flatten()[grey][0].item()
                raise InputError(f"mask has the value {value:g}: give truth values, or 0 and 1, or 0 and 255")
        per_image, pixels = values.ndim == 4, (values != 0)[(None,) * (4 - values.ndim)]
        empty = (~pixels.flatten(1).any(dim=1)).nonzero().flatten().tolist()
        if empty:
            where = f" of image {empty[0]}" if per_image else ""
            raise InputError(f"mask lets no pixel{where} change: mark those that may change with 1 (white)")
        return cls(pixels, per_image, f"{name or 'mask'}-{_digest(pixels)}")

    @classmethod
    def region(cls, text: str, size: tuple[int, int]) -> Mask:
        """A named region of images of `size` (H, W): `center:0.5` (half of each side) or `border:2` (two pixels wide).

        Raises `InputError` for another text, and a region that holds no pixel.
        """
        import torch

        kind, _, amount = text.partition(":")
        number = float(amount) if re.fullmatch(r"\d+(\.\d+)?|\.\d+", amount) else math.nan
        pixels = torch.zeros(size, dtype=torch.bool)
        if kind == "center" and 0 < number <= 1:
            height, width = (max(1, round(number * side)) for side in size)
            top, left = (size[0] - height) // 2, (size[1] - width) // 2
            pixels[top : top + height, left : left + width] = True
        elif kind == "border" and number.is_integer() and number >= 1:
            wide = int(number)
            pixels[:] = True
            pixels[wide : size[0] - wide, wide : size[1] - wide] = False
        else:
            raise InputError(f"mask '{text}' names no region: {_REGIONS}")
        return replace(cls.of(pixels), name=text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[object, ...]:
        return self.per_image, self.digest

    @property
    def digest(self) -> str:
        """Hash of the shape and the pixels."""
        return _digest(self.pixels)

    @property
    def share(self) -> float:
        """The share of the pixels that may change."""
        return float(self.pixels.float().mean())

    def select(self, rows: Sequence[int] | Tensor) -> Mask:
        """The mask of some of the images; one that is the same for all stays as it is."""
        import torch

        return replace(self, pixels=self.pixels[torch.as_tensor(rows).cpu()]) if self.per_image else self

    def on(self, x: Tensor) -> Tensor:
        """The mask of each of the images `x` (B×C×H×W): bool, B×c×H×W on their device.

        Raises `InputError` where it does not fit them.
        """
        self.check(tuple(x.shape))
        return self.pixels.to(x.device).expand(len(x), *self.pixels.shape[1:])

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise `InputError` unless the mask fits images of `shape` (N, C, H, W)."""
        own, images = tuple(self.pixels.shape), "×".join(map(str, shape[1:]))
        if own[1] not in (1, shape[1]) or own[2:] != shape[2:]:
            raise InputError(
                f"mask is {'×'.join(map(str, own[1:]))} and the images are {images}: give one of "
                f"{'×'.join(map(str, shape[2:]))} or {images}"
            )
        if self.per_image and own[0] != shape[0]:
            raise InputError(f"mask is for {own[0]} images and there are {shape[0]}: give one for each, or one for all")

    def box(self) -> tuple[slice, slice]:
        """Rows and columns of the smallest rectangle that holds all pixels that may change."""
        across = self.pixels.flatten(0, 1).any(dim=0)
        down, left = (across.any(dim=axis).nonzero().flatten() for axis in (1, 0))
        return slice(int(down[0]), int(down[-1]) + 1), slice(int(left[0]), int(left[-1]) + 1)

    def as_dict(self) -> dict[str, Any]:
        """The mask as JSON values, from which `from_dict` makes it again."""
        import numpy as np

        bits = base64.b64encode(np.packbits(self.pixels.numpy()).tobytes()).decode()
        return {"name": self.name, "per_image": self.per_image, "shape": list(self.pixels.shape), "bits": bits}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Mask:
        """The mask that `as_dict` described."""
        import numpy as np
        import torch

        packed = np.frombuffer(base64.b64decode(values["bits"]), np.uint8)
        pixels = np.unpackbits(packed, count=math.prod(values["shape"])).reshape(values["shape"])
        return cls(torch.from_numpy(pixels.astype(np.bool_)), bool(values["per_image"]), str(values["name"]))


def _digest(pixels: torch.Tensor) -> str:
    import numpy as np

    content = str(tuple(pixels.shape)).encode() + np.packbits(pixels.numpy()).tobytes()
    return hashlib.sha256(content).hexdigest()[:12]
