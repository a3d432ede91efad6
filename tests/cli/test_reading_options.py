"""The options that say how images are read, through the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from image_samples import RGB, tiff
from PIL import Image

FACTORY = """
import torch, torchvision
def net(): return torchvision.models.resnet18(num_classes=2)
def grey(): return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
"""
QUICK = ("--attack", "fgsm", "--no-checks", "--batch-size", 8)


@pytest.fixture
def factory(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(FACTORY)
    return f"{tmp_path}/own.py"


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    """A folder of grey images in which one of a hundred is damaged, beside a file that is none."""
    for name in ("cats", "dogs"):
        (tmp_path / "grey" / name).mkdir(parents=True)
        for number in range(50):
            pixels = np.random.default_rng(number).integers(0, 255, (32, 32), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "grey" / name / f"{number:02}.png")
    (tmp_path / "grey" / "cats" / "07.png").write_bytes(b"")
    (tmp_path / "grey" / "cats" / "labels.txt").write_text("x")
    return tmp_path / "grey"


@pytest.mark.parametrize(("name", "told"), [("net", True), ("grey", False)])
def test_grey_images_are_read_as_the_model_needs_and_this_is_said(
    name: str, told: bool, call: Callable[..., int], factory: str, grey: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out, records = tmp_path / "out", tmp_path / "r.parquet"
    model = ("--model", f"{factory}:{name}", "--data", grey)
    assert call("evaluate", *model, *QUICK, "--out", out, "--no-explain", "--records", records) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert ("note: grey images were read as RGB, for the model has 3 input channel(s)" in notes) == told
    assert notes[:2] == [
        "note: 1 file that is no image of a class was left out (cats/labels.txt)",
        "note: 1 of 100 images cannot be read and were left out: cats/07.png (the file is empty)",
    ]
    facts = json.loads((out / "evaluation.json").read_text())
    assert [f"note: {note}" for note in facts["notes"]] == notes
    sources = pq.read_table(records).column("source").to_pylist()
    assert sources[: len(facts["sources"])] == facts["sources"]
    assert all((grey / source).is_file() for source in sources)


def test_channels_and_size_are_asked_for(
    call: Callable[..., int], refused: Callable[..., str], factory: str, grey: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = ("evaluate", "--model", f"{factory}:net", "--data", grey, *QUICK)
    assert call(*net, "--channels", 3, "--image-size", "16x24", "--crop", 0.8, "--interpolation", "bicubic") == 0
    told = capsys.readouterr().err
    assert "shorter side resized to 20 (bicubic), centre cropped to 16×24 pixels, RGB" in told
    assert "does not take 1×32×32 images" in refused(*net, "--channels", 1).replace("note: ", "")


WRONG = {
    "--channels": (4, "channels must be 1 (grey) or 3 (RGB), got 4"),
    "--image-size": ("big", "image size 'big' is not understood"),
    "--crop": (224, "crop 224 is not the fraction"),
    "--resize": (3, "resize 3 is less than the 32 pixels"),
    "--interpolation": ("cubic", "did you mean 'bicubic'"),
    "--crop-mode": ("middle", "crop_mode 'middle' is unknown"),
    "--value-range": ("5", "value range '5' is not understood"),
}


@pytest.mark.parametrize("command", ["evaluate", "explain", "transfer", "train", "harden"])
def test_every_command_reads_images_by_the_same_options(
    command: str, refused: Callable[..., str], pets: Path, tmp_path: Path
) -> None:
    model = (
        "--model",
        "resnet10t",
        "--data",
        pets,
        *(() if command in ("evaluate", "transfer") else ("--out", tmp_path)),
    )
    for option, (value, told) in WRONG.items():
        assert told in refused(command, *model, option, value)


def test_what_cannot_be_read_names_the_way_on(refused: Callable[..., str], factory: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "bands" / name).mkdir(parents=True)
        (tmp_path / "floats" / name).mkdir(parents=True)
        (tmp_path / "bands" / name / "x.tif").write_bytes(tiff(np.zeros((8, 8, 4), np.uint8), RGB, extra=[0]))
        (tmp_path / "floats" / name / "x.tif").write_bytes(tiff(np.zeros((8, 8), np.float32), 1))
    net = ("evaluate", "--model", f"{factory}:net", "--split", "all", "--data")
    assert "its 4 bands are neither RGBA nor CMYK" in refused(*net, tmp_path / "bands")
    assert "declare it with --value-range 0,1" in refused(*net, tmp_path / "floats")


def test_a_trained_folder_is_measured_on_images_read_as_its_own(
    call: Callable[..., int], pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "trained"
    options = ("--data", pets, "--image-size", "12x16", "--crop", 0.75, "--channels", 1)
    assert call("train", "--model", "small_cnn", *options, "--epochs", 1, "--out", out, "--batch-size", 16) == 0
    told = "shorter side resized to 16 (bilinear), centre cropped to 12×16 pixels, grey"
    assert told in capsys.readouterr().err
    assert call("evaluate", "--model", out, "--data", pets, *QUICK) == 0
    assert told in capsys.readouterr().err
