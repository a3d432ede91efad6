"""Resizing and cropping, pixel for pixel as the evaluation transforms of torchvision and timm."""

from __future__ import annotations

from PIL import Image

from inoculate.data.preprocessing import Preprocessing

LARGEST = 2**26  # pixels of a resized image before it is cropped


def fit_image(image: Image.Image, reading: Preprocessing) -> Image.Image:
    """The image (mode L or RGB) resized and cropped to `reading.size`, which must be said.

    `center` is torchvision's `Resize`, then `CenterCrop`; `squash` and `border` are timm's crop modes. Raises
    `ValueError` for an image so long and narrow that it becomes huge when its shorter side is resized.
    """
    assert reading.size is not None
    resized = _resized_size(image.size, reading)
    if resized[0] * resized[1] > LARGEST:
        raise ValueError(f"of {image.width}×{image.height} pixels, {resized[0]}×{resized[1]} after resizing: crop it")
    if resized != image.size:
        method = Image.Resampling[(reading.interpolation or "bilinear").upper()]
        image = image.resize(resized, method)
    return _center_crop(image, reading)


def _resized_size(size: tuple[int, int], reading: Preprocessing) -> tuple[int, int]:
    """(width, height) of the image before the crop, rounded as the two libraries do."""
    (width, height), (tall, wide) = size, reading.scale
    if reading.crop_mode == "squash":
        return wide, tall
    if reading.crop_mode != "border" and tall == wide:
        longer = int(tall * max(size) / min(size))
        return (tall, longer) if width <= height else (longer, tall)
    choose = max if reading.crop_mode == "border" else min
    ratio = choose(height / tall, width / wide)
    return round(width / ratio), round(height / ratio)


def _center_crop(image: Image.Image, reading: Preprocessing) -> Image.Image:
    """The centre of `reading.size`; what an image lacks is filled."""
    assert reading.size is not None
    height, width = reading.size
    if image.size == (width, height):
        return image
    missing = max(width - image.width, 0), max(height - image.height, 0)
    if any(missing):
        fill = reading.fill if reading.fill and reading.crop_mode == "border" else (0, 0, 0)
        colour = fill if image.mode == "RGB" else round(sum(fill) / 3)
        padded = Image.new(image.mode, (image.width + missing[0], image.height + missing[1]), colour)
        padded.paste(image, (missing[0] // 2, missing[1] // 2))
        image = padded
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
