"""What pretrained weights expect of their images, from timm, torchvision and transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inoculate.core.errors import InputError
from inoculate.models.pretrained import InputConfig, input_config

HALF, MEAN, STD = (0.5,) * 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_tiny_patch16_224", InputConfig(HALF, HALF, (224, 224), 0.9, "bicubic")),
        ("resnet18", InputConfig(MEAN, STD, (224, 224), 0.95, "bicubic")),
        ("resnet18.tv_in1k", InputConfig(MEAN, STD, (224, 224), 0.875, "bilinear")),
        ("torchvision:resnet18", InputConfig(MEAN, STD, (224, 224), 0.875, "bilinear")),
        ("googlenet", InputConfig(MEAN, STD, (224, 224), 0.875, "bilinear")),
        ("torchvision:inception_v3", InputConfig(MEAN, STD, (299, 299), 299 / 342, "bilinear")),
        ("small_cnn", None),
        ("no_such_network", None),
    ],
)
def test_names(name: str, expected: InputConfig | None) -> None:
    assert input_config(name) == expected


PROCESSOR = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"size": {"height": 32, "width": 48}, "resample": 3}, ((32, 48), 1.0, "bicubic", "squash")),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
         ((224, 224), 0.875, "bilinear", "center")),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, ((224, 224), 0.875, "bilinear", "center")),
        ({"size": 96, "resample": 0}, ((96, 96), 1.0, "nearest", "squash")),
    ],
)  # fmt: skip
def test_processors_of_transformers(tmp_path: Path, fields: dict[str, object], expected: tuple[object, ...]) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **fields}))
    assert input_config(f"hf:{tmp_path}") == InputConfig(HALF, (0.25,) * 3, *expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no preprocessor_config.json"),
        ("<html>", "is not JSON"),
        ("[]", "is not a description"),
        ('{"size": 32}', "declare them"),
        ('{"rescale_factor": 0.0078431}', "not 1/255"),
    ],
)
def test_processors_that_are_refused_in_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        input_config(f"hf:{tmp_path}")
    assert "\n" not in str(caught.value)
