"""Resizing and cropping are those of torchvision and timm, to the pixel."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from inoculate.core.errors import InputError
from inoculate.data.convert import with_shape
from inoculate.data.dataset import Dataset
from inoculate.data.decode import decode_image
from inoculate.data.load import load_data
from inoculate.data.preprocessing import Preprocessing, parse_range, parse_size
from inoculate.models.loading.inputs import expected_preprocessing

SIZES = ((60, 40), (40, 60), (41, 97), (33, 33), (300, 20), (31, 32))


def photo(width: int, height: int, mode: str = "RGB") -> bytes:
    rng = np.random.default_rng(width * 1000 + height)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    noise = rng.integers(0, 40, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(
        (np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)) * 0.8 + noise).astype("u1")
    )
    stream = io.BytesIO()
    image.convert(mode).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def plain(transform: Any, payload: bytes) -> Any:
    """The pixels of a transform of timm or torchvision before its last two steps, to tensor and normalise."""
    steps = [step for step in transform.transforms if "Tensor" not in type(step).__name__]
    steps = [step for step in steps if not isinstance(step, transforms.Normalize)]
    image = Image.open(io.BytesIO(payload)).convert("RGB")
    return np.asarray(transforms.Compose(steps)(image)).transpose(2, 0, 1)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_resize_and_crop_are_those_of_torchvision(interpolation: Any) -> None:
    mode = InterpolationMode(interpolation)
    for size in SIZES:
        for resize, crop in ((24, 24), (28, 24), (40, 24), (24, 17)):
            theirs = transforms.Compose([transforms.Resize(resize, mode), transforms.CenterCrop(crop)])
            ours = Preprocessing(image_size=crop, channels=3, resize=resize, interpolation=interpolation)
            assert np.array_equal(decode_image(photo(*size), ours).pixels, plain(theirs, photo(*size))), (size, resize)


def test_squash_is_torchvisions_resize_to_both_sides() -> None:
    theirs = transforms.Compose([transforms.Resize((20, 30))])
    ours = Preprocessing(image_size=(20, 30), channels=3, crop_mode="squash")
    assert np.array_equal(decode_image(photo(60, 40), ours).pixels, plain(theirs, photo(60, 40)))


# one model of each combination of crop mode, interpolation and shape that timm's checkpoints have
TIMM = (
    *(
        "resnet18.a1_in1k",
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        "mobilenetv2_100.ra_in1k",
        "volo_d5_448.sail_in1k",
    ),
    *("inception_v3.tv_in1k", "convnext_nano.in12k_ft_in1k", "resnet18.tv_in1k"),
)


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pretrained_timm_names_are_read_by_timms_own_transform(name: str, mode: str) -> None:
    config = timm.get_pretrained_cfg(name)
    assert config is not None
    theirs = create_transform(**resolve_data_config({}, pretrained_cfg=config.to_dict()))
    ours = expected_preprocessing(name, pretrained=True)
    for size in ((300, 200), (120, 333)):
        payload = photo(*size, mode=mode)
        assert np.array_equal(decode_image(payload, ours).pixels, plain(theirs, payload)), ours
    assert expected_preprocessing(name) == Preprocessing()


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize("crop", [1.0, 0.9, 0.875, 1.15])
def test_every_crop_mode_is_timms(crop_mode: Any, size: tuple[int, int], crop: float) -> None:
    theirs = create_transform((3, *size), crop_pct=crop, crop_mode=crop_mode, interpolation="bicubic")
    ours = Preprocessing(
        image_size=size, channels=3, crop=crop, crop_mode=crop_mode, interpolation="bicubic", fill=(124, 116, 104)
    )
    for each in SIZES:
        assert np.array_equal(decode_image(photo(*each), ours).pixels, plain(theirs, photo(*each))), each


def test_a_models_own_transform_is_that_of_its_name() -> None:
    model = timm.create_model("resnet10t", pretrained=False)
    theirs = create_transform(**resolve_data_config({}, model=model))
    ours = expected_preprocessing("resnet10t", pretrained=True)
    assert np.array_equal(decode_image(photo(300, 200), ours).pixels, plain(theirs, photo(300, 200)))


def test_grey_is_made_after_resizing_wherever_it_is_made() -> None:
    colour = Preprocessing(image_size=20, channels=3)
    pixels = torch.from_numpy(decode_image(photo(60, 40), colour).pixels.copy())[None]
    data = Dataset.from_tensors(pixels, torch.tensor([0]), ("a", "b"))
    grey = decode_image(photo(60, 40), Preprocessing(image_size=20, channels=1)).pixels
    assert np.array_equal(with_shape(data, Preprocessing(channels=1)).images[0].numpy(), grey)


def test_what_is_said_comes_before_what_the_model_needs() -> None:
    model = Preprocessing(image_size=224, channels=3, crop=0.875, interpolation="bicubic")
    assert Preprocessing(image_size=64).over(model) == Preprocessing(64, 3, None, 0.875, None, "bicubic")
    assert Preprocessing(resize=256).over(model).crop is None
    assert Preprocessing(image_size=224, crop=0.875).scale == (256, 256)
    assert Preprocessing(image_size=(20, 40), resize=30).scale == (30, 60)
    words = "shorter side resized to 256 (bicubic), centre cropped to 224×224 pixels, RGB"
    assert str(model) == words


def test_sizes_and_ranges_are_parsed() -> None:
    assert (parse_size("224"), parse_size("192x256"), parse_range("-1,1.5")) == (224, (192, 256), (-1.0, 1.5))
    for wrong in ("", "x", "224x", "1.5", "-3", "2e2", "224x224x3"):
        with pytest.raises(InputError, match="give pixels like 224"):
            parse_size(wrong)
    for wrong in ("1", "a,b", "1,2,3"):
        with pytest.raises(InputError, match="black and white"):
            parse_range(wrong)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no side": ({"image_size": 0}, "1 to 4096 pixels, got 0"),
    "one side": ({"image_size": (32,)}, "got (32,): give a side or (height, width)"),
    "fraction of a pixel": ({"image_size": 32.5}, "got 32.5"),
    "crop as text": ({"crop": "0.9"}, "crop 0.9 is not the fraction"),
    "range of three": ({"value_range": (0, 1, 2)}, "give the values of black and of white"),
    "endless range": ({"value_range": (0, float("inf"))}, "give the values of black and of white"),
    "text": ({"image_size": "224"}, "1 to 4096 pixels"),
    "channels": ({"channels": 4}, "1 (grey) or 3 (RGB)"),
    "crop in pixels": ({"crop": 224}, "crop 224 is not the fraction"),
    "no crop": ({"crop": 0.0}, "crop 0 is not the fraction"),
    "resize and crop": ({"resize": 256, "crop": 0.9}, "leave one out"),
    "resize": ({"resize": 0}, "whole number"),
    "too little": ({"resize": 20, "image_size": 32}, "resize 20 is less than the 32 pixels"),
    "interpolation": ({"interpolation": "cubic"}, "did you mean 'bicubic'"),
    "mode": ({"crop_mode": "centre"}, "did you mean 'center'"),
    "range": ({"value_range": (1, 1)}, "give the values of black and of white"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_meant_is_refused_in_one_line(case: str) -> None:
    options, expected = WRONG[case]
    with pytest.raises(InputError) as caught:
        load_data("digits", **options)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_are_read_as_asked(folders: Any, cache: Path) -> None:
    folder = folders({"a": 4, "b": 4}, size=(30, 20))
    data = load_data(folder, "all", image_size=(10, 16), crop=0.8, interpolation="bicubic", channels=1)
    assert data.images.shape == (8, 1, 10, 16)
    assert "RGB images were read as grey" in data.summary()
    assert "shorter side resized to 12 (bicubic), centre cropped to 10×16 pixels, grey" in data.summary()
    others = [
        load_data(folder, "all", image_size=16, channels=3, interpolation=each) for each in ("nearest", "lanczos")
    ]
    assert len({data.digest for data in others}) == 2, "the cache tells them apart"
    assert load_data(folder, "all", image_size=16).notes == ()
