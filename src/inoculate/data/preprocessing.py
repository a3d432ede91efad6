"""How image files become pixels: size, crop, interpolation, channels and value range, as one value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import inf
from typing import Any, Literal, TypedDict

from inoculate.core.errors import InputError
from inoculate.core.options import is_number, require_count, require_one_of

Size = int | tuple[int, int]  # the side of a square, or (height, width), in pixels
CropMode = Literal["center", "squash", "border"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]

LARGEST_SIDE = 4096  # pixels
LARGEST_CROP = 1.5  # a few of timm's checkpoints put a black border around the image: their fraction is above 1
CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


class ReadingOptions(TypedDict, total=False):
    """The fields of `Preprocessing` as keyword arguments of `load_data`."""

    image_size: Size | None
    channels: int | None
    resize: int | None
    crop: float | None
    crop_mode: CropMode | None
    interpolation: Interpolation | None
    value_range: tuple[float, float] | None


@dataclass(frozen=True)
class Preprocessing:
    """How image files are read. What is None is left to the model or to the images.

    Args:
        image_size: side of a square, or (height, width), in pixels.
        channels: 1 (grey) or 3 (RGB).
        resize: length in pixels to which the shorter side is resized before the centre is cropped to `image_size`, as
            torchvision's `resize_size`.
        crop: instead of `resize`, the fraction of the shorter side that the crop keeps, as timm's `crop_pct`: the
            shorter side is resized to image size / crop. By default 1.
        crop_mode: as timm's: `center` keeps the shape of things and crops what is too long, `squash` resizes each side
            by itself, `border` fits the longer side and fills the rest with `fill`. By default `center`.
        interpolation: of Pillow, with antialiasing. By default `bilinear`.
        value_range: (low, high), the values that become black and white in images of floating point, or of integers of
            more than 8 bits.
        fill: RGB colour of the borders of `border`. By default black.

    Raises `InputError` for a value that is not usable.
    """

    image_size: Size | None = None
    channels: int | None = None
    resize: int | None = None
    crop: float | None = None
    crop_mode: CropMode | None = None
    interpolation: Interpolation | None = None
    value_range: tuple[float, float] | None = None
    fill: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None:
            _check_size(self.image_size)
        if self.channels not in (None, 1, 3):
            raise InputError(f"channels must be 1 (grey) or 3 (RGB), got {self.channels}")
        if self.resize is not None:
            require_count(resize=self.resize)
            if self.crop is not None:
                raise InputError("resize (pixels) and crop (fraction) both say how much is cropped: leave one out")
        if self.crop is not None and not (is_number(self.crop) and 0 < self.crop <= LARGEST_CROP):
            crop = f"{self.crop:g}" if is_number(self.crop) else self.crop
            raise InputError(
                f"crop {crop} is not the fraction of the shorter side that is kept: give one such as 0.875; the "
                "crop in pixels is the image size, and resize what it is cropped from"
            )
        if self.crop_mode is not None:
            require_one_of(CROP_MODES, crop_mode=self.crop_mode)
        if self.interpolation is not None:
            require_one_of(INTERPOLATIONS, interpolation=self.interpolation)
        span = self.value_range
        if span is not None and not (len(span) == 2 and all(map(is_number, span)) and -inf < span[0] < span[1] < inf):
            raise InputError(f"value range {span} is not usable: give the values of black and of white")

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels."""
        return None if self.image_size is None else as_sides(self.image_size)

    @property
    def scale(self) -> tuple[int, int]:
        """(height, width) of the box, in pixels, to which images are resized before the crop to `size`.

        Raises `InputError` if `resize` is smaller than the crop.
        """
        assert self.size is not None  # of a resolved one
        if self.resize is None:
            height, width = (int(side / (self.crop or 1) + 1e-9) for side in self.size)
            return height, width
        if self.resize < min(self.size):
            raise InputError(
                f"resize {self.resize} is less than the {min(self.size)} pixels that are cropped from it: "
                "give a larger resize or a smaller image size"
            )
        height, width = (round(side * self.resize / min(self.size)) for side in self.size)
        return height, width

    def over(self, base: Preprocessing) -> Preprocessing:
        """This, with what it leaves open taken from `base`."""
        if self.resize is not None or self.crop is not None:
            base = replace(base, resize=None, crop=None)
        said = {each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) is not None}
        return replace(base, **said)

    @property
    def spec(self) -> dict[str, Any]:
        """All that is said, as JSON values."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def arguments(self) -> list[str]:
        """The options of the command line that say the same."""
        joints = {"image_size": "x", "value_range": ","}
        found = []
        for name, value in self.spec.items():
            if name != "fill":
                text = joints[name].join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)
                found += [f"--{name.replace('_', '-')}", text]
        return found

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Preprocessing:
        """The one whose `spec` this is, also when it comes from a JSON file."""
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in spec.items()}
        return cls(**values)

    def __str__(self) -> str:
        """What a resolved one does, in words."""
        assert self.size is not None
        box, mode = self.scale, self.crop_mode or "center"
        if mode == "squash":
            steps = f"resized to {format_size(box)}"
        else:
            steps = f"{'longer' if mode == 'border' else 'shorter'} side resized to {min(box)}"
        steps += f" ({self.interpolation or 'bilinear'}), centre cropped to {format_size(self.size)} pixels"
        return f"{steps}, {'grey' if self.channels == 1 else 'RGB'}"


def _check_size(size: Size) -> None:
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and 1 <= side <= LARGEST_SIDE for side in sides):
        raise InputError(
            f"the image size must be 1 to {LARGEST_SIDE} pixels, got {size}: give a side or (height, width)"
        )


AS_THEY_ARE = Preprocessing()


def as_size(height: int, width: int) -> Size:
    """The side of a square, or (height, width)."""
    return height if height == width else (height, width)


def as_sides(size: Size) -> tuple[int, int]:
    """(height, width)."""
    return (size, size) if isinstance(size, int) else size


def parse_size(text: str) -> Size:
    """`"224"` as the side of a square, `"192x256"` as (height, width). Raises `InputError` for anything else."""
    if not (found := re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", text.strip())):
        raise InputError(f"image size '{text}' is not understood: give pixels like 224, or height and width, 192x256")
    return int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))


def parse_range(text: str) -> tuple[float, float]:
    """`"0,4095"` as two numbers. Raises `InputError` for anything else."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"value range '{text}' is not understood: give the values of black and white like 0,4095"
        ) from None
    return low, high


def format_size(size: Size) -> str:
    """A size in words: 224×224."""
    return "×".join(map(str, as_sides(size)))
