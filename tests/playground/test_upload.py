"""Uploaded files: the hostile ones are refused in one line, the unusual ones are read as the data are."""

import tracemalloc

import pytest
import torch
from upload_samples import HOSTILE, ODD, deep_grey, encoded, floats, noise, png

from inoculate.core.errors import InputError
from inoculate.data.load import load_data
from inoculate.data.preprocessing import Preprocessing
from inoculate.playground.upload import LARGEST_FILE, LARGEST_IMAGE, read_upload, take_file

RGB = Preprocessing(image_size=32, channels=3)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(kind):
    make, words = HOSTILE[kind]
    with pytest.raises(InputError) as refused:
        read_upload(make(), RGB)
    line = str(refused.value)
    assert words in line
    assert "\n" not in line
    assert len(line) < 200


def test_there_are_at_least_twenty_kinds():
    assert len(HOSTILE) >= 20


@pytest.mark.parametrize("kind", ["decompression bomb", "bomb below Pillow's limit", "a line of pixels"])
def test_a_bomb_is_refused_before_it_is_decoded(kind):
    content = HOSTILE[kind][0]()
    tracemalloc.start()
    with pytest.raises(InputError):
        read_upload(content, RGB)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2_000_000


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_file_is_read_and_a_note_says_what_was_done(kind):
    make, words = ODD[kind]
    picture = read_upload(make(), RGB)
    assert picture.pixels.shape == (3, 32, 32)
    assert picture.pixels.dtype == torch.uint8
    assert picture.label is None
    assert words in "; ".join(picture.notes)
    assert bool(picture.notes) == bool(words)


@pytest.mark.parametrize("kind", ["PNG", "transparent PNG", "turned JPEG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_has_the_pixels_that_the_same_file_has_among_the_data(kind, channels, tmp_path):
    content = ODD[kind][0]()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"image.{'jpg' if 'JPEG' in kind else 'png'}").write_bytes(content)
    reading = Preprocessing(image_size=24, channels=channels, crop=0.875, interpolation="bicubic")
    data = load_data(tmp_path, "all", preprocessing=reading)
    assert torch.equal(read_upload(content, reading).pixels, data.images[0])


def test_a_declared_range_opens_deep_and_floating_point_images():
    assert int(read_upload(deep_grey(), Preprocessing(32, 3, value_range=(0, 8000))).pixels.max()) == 128
    assert read_upload(floats(), Preprocessing(32, 3, value_range=(0, 1))).pixels.shape == (3, 32, 32)


def test_the_limits_are_just_reached():
    side = int(LARGEST_IMAGE**0.5)
    with pytest.raises(InputError, match="truncated"):  # which is found only when it is decoded
        read_upload(png(side, side), RGB)
    small = encoded(noise())
    assert read_upload(small + bytes(LARGEST_FILE - len(small)), RGB).notes == ()


def test_a_file_is_taken_from_the_folder_of_uploads_alone_and_deleted(tmp_path):
    uploads, private = tmp_path / "uploads", tmp_path / "private.png"
    uploads.mkdir()
    (uploads / "mine.png").write_bytes(b"mine")
    private.write_bytes(b"private")
    (uploads / "link.png").symlink_to(private)
    assert take_file(uploads / "mine.png", uploads) == b"mine"
    assert not (uploads / "mine.png").exists()
    for path in (private, uploads / ".." / "private.png", uploads / "link.png", uploads / "mine.png", uploads):
        with pytest.raises(InputError, match="was not uploaded here"):
            take_file(path, uploads)
    assert private.read_bytes() == b"private"
    (uploads / "large.png").write_bytes(bytes(LARGEST_FILE + 1))
    with pytest.raises(InputError, match="at most 16"):
        take_file(uploads / "large.png", uploads)
    assert not (uploads / "large.png").exists()
