"""Images of every mode, depth and form: read right, or named with the reason."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_samples import CMYK, GREY, LAB, RGB, WHITE_IS_ZERO, png16, tiff
from PIL import Image

from inoculate.core.errors import InputError
from inoculate.data.dataset import Dataset
from inoculate.data.load import load_data

RNG = np.random.default_rng(0)
Make = Callable[..., Path]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def read(tmp_path: Path, cache: Path) -> Callable[..., Dataset]:
    """Load a folder of these files, divided between two classes."""

    def load(*files: bytes, suffix: str = ".png", size: int = 8, **options: Any) -> Dataset:
        folder = tmp_path / "files"
        for number, content in enumerate(files):
            path = folder / "ab"[number % 2] / f"{number:03}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return load_data(folder, "all", image_size=size, **options)

    return load


def ramp(top: int, bands: int = 0) -> Any:
    """8×8 values from 0 to `top`."""
    values = np.linspace(0, top, 64).round().reshape(8, 8)
    if bands:
        values = np.stack([values, *[np.rot90(values, k) for k in range(1, bands)]], axis=2)
    return values.astype(np.uint16)


def scaled(values: Any, top: int) -> Any:
    return np.floor(values.astype(float) * 255 / top + 0.5).astype(np.uint8)


def in_order(data: Dataset) -> torch.Tensor:
    """Images in the order of the files' numbers."""
    return data.images[np.argsort([Path(name).name for name in data.source_names()])]


FORMS: dict[str, Callable[[Any], bytes]] = {
    "grey PNG": lambda values: encoded(Image.fromarray(values[..., 0]), "PNG"),
    "grey TIFF": lambda values: encoded(Image.fromarray(values[..., 0]), "TIFF"),
    "compressed grey TIFF": lambda values: encoded(Image.fromarray(values[..., 0]), "TIFF", compression="tiff_lzw"),
    "grey TIFF of 32 bits": lambda values: tiff(values[..., 0].astype(np.uint32), GREY),
    "grey TIFF with signs": lambda values: tiff(values[..., 0].astype(np.int32), GREY),
    "colour PNG": png16,
    "colour TIFF": lambda values: tiff(values, RGB),
    "colour TIFF of the other byte order": lambda values: tiff(values, RGB, big_endian=True),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("top", "white", "bits"), [(200, 255, 8), (1000, 1023, 10), (4000, 4095, 12), (60000, 65535, 16)]
)
def test_deep_integers_are_scaled_by_the_depth_that_they_use(
    form: str, top: int, white: int, bits: int, read: Callable[..., Dataset]
) -> None:
    values = ramp(top, 3)
    data = read(FORMS[form](values // 4), FORMS[form](values), suffix=".tif")
    expected = [scaled(each, white).transpose(2, 0, 1)[: data.channels] for each in (values // 4, values)]
    assert np.array_equal(in_order(data).numpy(), np.stack(expected)), "all images by the same factor"
    assert f"2 images of more than 8 bits: 0..{white} became 0..255, for they use {bits} bits" in data.summary()


def test_a_deep_image_among_others_is_found_wherever_it_is(read: Callable[..., Dataset]) -> None:
    plain = encoded(Image.fromarray(ramp(255).astype(np.uint8)), "PNG")
    deep = encoded(Image.fromarray(ramp(4000)), "PNG")
    data = read(*[plain] * 150, deep)
    assert np.array_equal(in_order(data)[150, 0].numpy(), scaled(ramp(4000), 4095))
    assert np.array_equal(in_order(data)[0, 0].numpy(), ramp(255)), "images of 8 bits stay as they are"


def test_a_declared_range_decides(read: Callable[..., Dataset]) -> None:
    deep = encoded(Image.fromarray(ramp(4000)), "PNG")
    data = read(deep, deep, value_range=(0, 16383))
    assert np.array_equal(data.images[0, 0].numpy(), scaled(ramp(4000), 16383))
    assert "0..16383 became 0..255, as declared" in data.summary()
    with pytest.raises(InputError, match="its values go from 0 to 4000, outside the range 0 to 1000"):
        read(deep, deep, value_range=(0, 1000))
    plain = encoded(Image.new("L", (8, 8), 7), "PNG")
    assert "the value range was not used" in read(plain, plain, value_range=(0, 1)).summary()


def test_integers_with_signs_need_a_range(read: Callable[..., Dataset]) -> None:
    values = ramp(3000).astype(np.int32) - 1000
    file = tiff(values, GREY)
    with pytest.raises(InputError, match=r"the values of a/000.tif go from -1000 to 2000.*--value-range LOW,HIGH"):
        read(file, file, suffix=".tif")
    data = read(file, file, suffix=".tif", value_range=(-1000, 2000))
    assert np.array_equal(data.images[0, 0].numpy(), scaled(ramp(3000), 3000))


def test_integers_above_16_bits_need_a_range(read: Callable[..., Dataset]) -> None:
    file = tiff(ramp(60000).astype(np.uint32) * 10, GREY)
    with pytest.raises(InputError, match="from 0 to 600000, more than 16 bits"):
        read(file, file, suffix=".tif")
    assert int(read(file, file, suffix=".tif", value_range=(0, 600000)).images.max()) == 255


def test_floats_need_a_range(read: Callable[..., Dataset]) -> None:
    values = (ramp(1000) / 1000).astype(np.float32)
    file = tiff(values, GREY)
    with pytest.raises(InputError, match=r"declare it with --value-range 0,1, value_range=\(0, 1\)"):
        read(file, file, suffix=".tif")
    data = read(file, file, suffix=".tif", value_range=(0, 1))
    assert np.array_equal(data.images[0, 0].numpy(), scaled(values, 1))
    assert "2 images of floating point: 0..1 became 0..255, as declared" in data.summary()
    values[3, 3] = np.nan
    with pytest.raises(InputError, match="it holds NaN or infinity"):
        read(file, tiff(values, GREY), suffix=".tif", value_range=(0, 1))


def test_deep_transparency_is_laid_on_white_whatever_its_depth(read: Callable[..., Dataset]) -> None:
    colours = ramp(4000, 3)
    for opaque in (4095, 65535):
        alpha = np.full((8, 8, 1), opaque, np.uint16)
        alpha[0, 0] = 0
        pixels = read(*[png16(np.concatenate([colours, alpha], axis=2))] * 2).images[0]
        expected = scaled(colours, 4095).transpose(2, 0, 1).copy()
        expected[:, 0, 0] = 255
        assert np.array_equal(pixels.numpy(), expected), opaque


BANDS = RNG.integers(0, 256, (8, 8, 6), dtype=np.uint8)
REFUSED: dict[str, tuple[bytes, str]] = {
    "RGB and infrared": (tiff(BANDS[..., :4], RGB, extra=[0]), "its 4 bands are neither RGBA nor CMYK"),
    "a fourth band without a word": (tiff(BANDS[..., :4], RGB), "its 4 bands are neither RGBA nor CMYK"),
    "six bands": (tiff(BANDS, RGB, extra=[0, 0, 0]), "its 6 bands are neither RGBA nor CMYK"),
    "four grey bands": (tiff(BANDS[..., :4], GREY, extra=[0] * 3), "its 4 bands of 8-bit integers are a form of TIFF"),
    "deep and four bands": (tiff(ramp(9, 4), RGB, extra=[0]), "its 4 bands are neither RGBA nor CMYK"),
    "deep CMYK": (tiff(ramp(9, 4), CMYK), "16-bit pixels of the form CMYK are not read"),
    "deep grey and alpha": (png16(ramp(9, 2)), "16-bit pixels of the form LA are not read"),
    "signed bytes": (tiff(BANDS[..., 0].astype(np.int8), GREY), "its integers of 8 bits are signed"),
    "white is zero": (tiff(ramp(9), WHITE_IS_ZERO), "its 16-bit values store white as 0"),
    "doubles": (tiff(BANDS[..., 0].astype(np.float64), GREY), "its 1 bands of 64-bit floats are a form of TIFF"),
    "float colours": (tiff(BANDS[..., :3].astype(np.float32), RGB), "its 3 bands of 32-bit floats are a form of TIFF"),
    "empty": (b"", "the file is empty"),
    "a web page": (b"<html>not found</html>", "not an image, or of a format that Pillow does not read"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "not an image, or of a format"),
    "truncated": (encoded(Image.fromarray(BANDS[..., :3]), "PNG")[:80], "truncated"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_right_is_named_with_the_reason(case: str, read: Callable[..., Dataset]) -> None:
    content, expected = REFUSED[case]
    with pytest.raises(InputError) as caught:
        read(content, content)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert " at 0x" not in str(caught.value)


def test_one_bad_image_among_200_is_left_out_and_named(
    folders: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folders({"a": 100, "b": 100})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    Image.new("RGB", (20, 20)).save(folder / "a" / "0007.png")
    data = load_data(folder, "all", image_size=12)
    told = (
        "1 of 200 images cannot be read and were left out: a/0007.png (Image size (400 pixels) exceeds limit of 300 "
        "pixels, Pillow's guard against decompression bombs: make it smaller)"
    )
    assert data.notes == (told,)
    assert "exceeds limit of 300 pixels" in caplog.text
    assert data.source_names()[6:8] == ["a/0006.png", "a/0008.png"]
    assert load_data(folder, "all", image_size=12).notes == (told,), "also when it comes from the cache"


def test_an_image_above_the_limit_is_refused_with_the_limit(folders: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folders({"a": 5, "b": 5})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(InputError, match="exceeds limit of 100 pixels"):
        load_data(folder)


def test_modes_are_read_as_colours(read: Callable[..., Dataset]) -> None:
    red = Image.new("RGB", (8, 8), (250, 10, 10))
    lab = tiff(np.broadcast_to(np.array([136, 208 - 128, 195 - 128], np.int64).astype(np.uint8), (8, 8, 3)).copy(), LAB)
    files = {
        "P": encoded(red.convert("P"), "PNG"),
        "CMYK": encoded(red.convert("CMYK"), "JPEG", quality=100),
        "LA": encoded(red.convert("LA"), "PNG"),
        "1": encoded(Image.new("1", (8, 8), 1), "PNG"),
        "Lab": lab,
    }
    data = read(*files.values(), channels=3)
    pixels = dict(zip(files, in_order(data)[:, :, 4, 4].tolist(), strict=True))
    assert np.abs(np.array([pixels["P"], pixels["CMYK"], pixels["Lab"]]) - [250, 10, 10]).max() <= 12, pixels
    assert pixels["LA"] == [82] * 3
    assert pixels["1"] == [255] * 3
    assert "2 images of CMYK or Lab colours converted to RGB" in data.summary()


def test_transparency_turns_and_frames_are_counted(read: Callable[..., Dataset]) -> None:
    clear = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 3
    frames = [Image.new("L", (8, 8), value) for value in (10, 200)]
    data = read(
        encoded(clear, "PNG"),
        encoded(Image.new("RGBA", (8, 8), (0, 0, 200, 255)), "PNG"),
        encoded(Image.new("RGB", (8, 8), (0, 90, 0)), "PNG", exif=exif),
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
    )
    assert data.notes == (
        "1 image with transparency laid on white",
        "1 image turned upright, as EXIF says",
        "2 images of several frames, of which the first was read",
    )
    images = in_order(data)
    assert images[0].min() == 255
    assert images[1, :, 0, 0].tolist() == [0, 0, 200]
    assert images[3:, :, 4, 4].unique().tolist() == [10]


def test_the_content_of_a_file_counts_not_its_name(read: Callable[..., Dataset]) -> None:
    image = Image.new("RGB", (8, 8), (1, 2, 250))
    data = read(encoded(image, "PNG"), encoded(image, "BMP"), encoded(image, "PPM"), suffix=".JPG")
    assert data.images[:, :, 0, 0].tolist() == [[1, 2, 250]] * 3, "and the channels are red, green, blue"


def test_deep_pil_images_of_a_torch_dataset_need_a_range(cache: Path) -> None:
    items: Any = [(Image.fromarray(ramp(4000)), i % 2) for i in range(4)]

    class Items(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(items)

        def __getitem__(self, i: int) -> Any:
            return items[i]

    with pytest.raises(InputError, match=r"image 0 has more than 8 bits: declare its range, such as value_range="):
        load_data(Items())
    data = load_data(Items(), value_range=(0, 4095))
    assert np.array_equal(data.images[0, 0].numpy(), scaled(ramp(4000), 4095))


def test_litter_is_ignored_and_other_files_are_counted(folders: Make) -> None:
    folder = folders({"a": 3, "b": 3})
    for name in ("a/Thumbs.db", "a/desktop.ini", "a/.DS_Store", "b/._0001.png", "README.md"):
        (folder / name).write_bytes(b"x")
    for name in ("__MACOSX/a", "a/__MACOSX", "a/.hidden", "@eaDir"):
        (folder / name).mkdir(parents=True)
        (folder / name / "x.png").write_bytes(b"x")
    (folder / "a" / "0001.png").rename(folder / "a" / "0001.PNG")
    data = load_data(folder, "all")
    assert (len(data), data.notes) == (6, ())
    for name in ("a/notes.txt", "a/label.csv", "b/0000.xyz", "loose.png"):
        (folder / name).write_bytes(b"x")
    told = "4 files that are no images of a class were left out (loose.png, a/label.csv, a/notes.txt, …)"
    assert load_data(folder, "all").notes == (told,)


def test_a_folder_without_images_is_refused_with_what_it_holds(folders: Make) -> None:
    folder = folders({"a": 3, "b": 3, "c": 0})
    with pytest.raises(InputError, match=r"c holds no images: add some"):
        load_data(folder)
    (folder / "c" / "x.npy").write_bytes(b"x")
    with pytest.raises(InputError, match=r"c holds no images \(only .npy files\)"):
        load_data(folder)


def test_a_folder_inside_a_folder_is_said(folders: Make) -> None:
    with pytest.raises(InputError, match=r"pets has one class only \(pets\).*give .*pets/pets"):
        load_data(folders({"pets/a": 3, "pets/b": 3}))


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_links_never_give_an_image_two_classes_or_two_parts(folders: Make) -> None:
    folder = folders({"train/a": 20, "train/b": 20, "test/a": 2, "test/b": 2})
    (folder / "train" / "a" / "up").symlink_to(folder)
    (folder / "train" / "a" / "round").symlink_to(folder / "train")
    assert len(load_data(folder, "all")) == 44, "links upwards are circles"
    (folder / "train" / "a" / "more").symlink_to(folder / "train" / "b")
    with pytest.raises(InputError, match="are the same folder, so its images would count in both"):
        load_data(folder)
    (folder / "train" / "a" / "more").unlink()
    (folder / "train" / "a" / "more").symlink_to(folder / "test" / "a")
    with pytest.raises(InputError, match="are the same folder"):
        load_data(folder)
    (folder / "train" / "a" / "more").unlink()
    (folder / "train" / "a" / "gone.png").symlink_to(folder / "nowhere.png")
    with pytest.raises(InputError, match=r"gone.png is a link to a file that is not there"):
        load_data(folder)


def test_a_linked_class_folder_is_followed_and_counted(folders: Make) -> None:
    folder, more = folders({"a": 3, "b": 3}), folders({"x": 20}, name="more")
    (folder / "c").symlink_to(more / "x")
    assert torch.bincount(load_data(folder, "all").labels).tolist() == [3, 3, 20]


def test_a_validation_folder_is_kept_apart(folders: Make) -> None:
    folder = folders({"train/a": 20, "train/b": 20, "val/a": 3, "val/b": 2, "test/a": 4, "test/b": 4})
    parts = {part: load_data(folder, part) for part in ("train", "val", "test")}
    assert {part: len(data) for part, data in parts.items()} == {"train": 40, "val": 5, "test": 8}
    for part, data in parts.items():
        assert all(name.startswith(f"{part}/") for name in data.source_names())


def test_without_a_test_folder_the_test_part_is_drawn_and_this_is_said(folders: Make) -> None:
    folder = folders({"train/a": 20, "train/b": 20, "valid/a": 3, "valid/b": 2})
    parts = {part: load_data(folder, part) for part in ("train", "val", "test")}
    assert {part: len(data) for part, data in parts.items()} == {"train": 32, "val": 5, "test": 8}
    assert not set(parts["train"].source_names()) & set(parts["test"].source_names())
    assert "no test split: their test part is a fifth of the training images" in parts["test"].summary()
    assert parts["train"].notes == ()


def test_images_know_their_files(folders: Make) -> None:
    data = load_data(folders({"a": 3, "b": 3}), "all")
    assert data.source_names() == [f"{c}/000{i}.png" for c in "ab" for i in range(3)]
    assert data.subset([4, 0]).source_names() == ["b/0001.png", "a/0000.png"]
    assert data.limit(2).source_names() == data.limit(2, seed=0).source_names()
    assert Dataset.from_tensors(data.images, data.labels).source_names() == []
