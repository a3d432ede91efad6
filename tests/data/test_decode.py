from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inoculate.data.decode import Pixels, UnreadableImageError, inspect_image
from inoculate.data.decode import decode_image as decode_as
from inoculate.data.pixels import Payload
from inoculate.data.preprocessing import Preprocessing


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def decode_image(payload: Payload, size: int, channels: int, top: int | None = None) -> Pixels:
    return decode_as(payload, Preprocessing(image_size=size, channels=channels), top).pixels


def test_the_same_size_passes_pixels_through() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    pixels = decode_image(encoded(Image.fromarray(image), "PNG"), 9, 3)
    assert np.array_equal(pixels, image.transpose(2, 0, 1))


def test_16_bit_grey_keeps_its_high_bits() -> None:
    deep = np.array([[0, 65535], [32768, 257]], dtype=np.uint16)
    pixels = decode_image(encoded(Image.fromarray(deep), "PNG"), 2, 1, top=65535)
    assert pixels.tolist() == [[[0, 255], [128, 1]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 0, 255))
    pixels = decode_image(encoded(image.convert(mode), "PNG"), 4, 3)
    assert pixels[:, 0, 0].tolist() == [0, 0, 0]
    assert pixels[:, 3, 3].tolist() == [255, 255, 255]


def test_a_transparent_grey_value_is_white_too() -> None:
    pixels = decode_image(encoded(Image.new("L", (2, 2), 7), "PNG", transparency=7), 2, 1)
    assert pixels.min() == 255


@pytest.mark.parametrize("channels", [1, 3])
def test_cmyk_and_palette_and_one_bit(channels: int) -> None:
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    grey = {1: [76], 3: [255, 0, 0]}[channels]
    for payload in (encoded(red.convert("CMYK"), "JPEG", quality=100), encoded(red.convert("P"), "PNG")):
        pixels = decode_image(payload, 8, channels)
        assert np.abs(pixels[:, 4, 4].astype(int) - grey).max() <= 4
    bit = decode_image(encoded(Image.new("1", (8, 8), 1), "PNG"), 8, channels)
    assert bit.min() == 255


def test_exif_orientation_is_honoured() -> None:
    image = Image.new("L", (6, 6), 0)
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90° clockwise: the mark moves to the top right
    pixels = decode_image(encoded(image, "PNG", exif=exif), 6, 1)
    assert np.argwhere(pixels[0]).tolist() == [[0, 5]]
    assert inspect_image(encoded(Image.new("RGB", (6, 3)), "PNG", exif=exif)) == (True, (3, 6))


def test_a_wide_image_is_cropped_to_its_centre() -> None:
    wide = np.zeros((4, 12), dtype=np.uint8)
    wide[:, 4:8] = 200
    pixels = decode_image(encoded(Image.fromarray(wide), "PNG"), 4, 1)
    assert pixels.min() == 200


def test_an_image_that_resizing_would_make_huge_is_unreadable() -> None:
    long = encoded(Image.new("L", (1, 60_000)), "PNG")
    with pytest.raises(UnreadableImageError, match=r"1×60000 pixels, 224×13440000 after resizing: crop it"):
        decode_image(long, 224, 1)
    assert decode_image(long, 8, 1).shape == (1, 8, 8)


def test_shrinking_averages() -> None:
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    for kind in ("PNG", "JPEG"):
        pixels = decode_image(encoded(Image.fromarray(board), kind), 8, 1)
        assert np.abs(pixels.astype(int) - 128).max() < 12


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_and_foreign_bytes_are_unreadable(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    assert decode_image(data, 8, 3).shape == (3, 8, 8)
    for bad in (data[: len(data) // 2], data[:10], b"<html>", b"", Path("nowhere.png")):
        for read in (lambda payload: decode_image(payload, 8, 3), inspect_image):
            with pytest.raises(UnreadableImageError):
                read(bad)


def test_an_image_above_pillows_limit_names_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UnreadableImageError, match="exceeds limit of 40 pixels"):
        decode_image(encoded(Image.new("L", (64, 64)), "PNG"), 8, 1)


def test_a_pil_image_is_read_and_left_as_it_is() -> None:
    image = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    assert decode_image(image, 4, 3).tolist() == np.full((3, 4, 4), 255).tolist()
    assert image.getpixel((0, 0)) == (200, 0, 0, 0)


def test_grey_is_seen_in_colour_files() -> None:
    grey = Image.new("L", (5, 5), 9)
    assert inspect_image(encoded(grey.convert("RGB"), "PNG")) == (True, (5, 5))
    assert inspect_image(encoded(Image.new("RGB", (5, 5), (9, 9, 8)), "PNG")) == (False, (5, 5))
