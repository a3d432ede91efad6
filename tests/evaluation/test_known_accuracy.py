"""Models whose right accuracy is known: images read wrongly would give another number, without a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_samples import RGB, png16, tiff
from torch import Tensor, nn

from inoculate.core.threat import Threat
from inoculate.data.load import load_data
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.result import Evaluation

N = 40  # images


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Evaluation]:
    """Clean accuracy of a model on files of two classes, one file per label, alternately."""
    monkeypatch.setenv("INOCULATE_CACHE", str(tmp_path / "cache"))

    def run(model: nn.Module, files: list[bytes], **reading: Any) -> Evaluation:
        for number, content in enumerate(files):
            path = tmp_path / "files" / "ab"[number % 2] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        data = load_data(tmp_path / "files", "all", **reading)
        return evaluate(model, data, ["fgsm"], [Threat(eps=0.001)], options=EvaluationOptions(checks=False))

    return run


class Light(nn.Module):
    """Class 1 is lighter than middle grey."""

    def forward(self, x: Tensor) -> Tensor:
        mean = 40 * (x.mean((1, 2, 3)) - 0.5)
        return torch.stack([-mean, mean], dim=1)


class Red(nn.Module):
    """Class 1 is redder than it is blue."""

    def forward(self, x: Tensor) -> Tensor:
        more = 40 * (x[:, 0] - x[:, 2]).mean((1, 2))
        return torch.stack([-more, more], dim=1)


@pytest.mark.parametrize("top", [255, 1023, 4095, 65535])
@pytest.mark.parametrize("form", ["png", "tiff"])
def test_image_depth(form: str, top: int, measure: Callable[..., Evaluation]) -> None:
    files = []
    for number in range(N):
        values = np.full((8, 8, 3), top * (0.3 if number % 2 == 0 else 0.7), np.uint16)
        values[0, 0], values[0, 1] = 0, top
        files.append(png16(values) if form == "png" else tiff(values, RGB))
    assert measure(Light(), files)[0].accuracy == 1.0


def test_channel_order(measure: Callable[..., Evaluation]) -> None:
    rng, files = np.random.default_rng(0), []
    for number in range(N):
        values = rng.integers(60, 120, (8, 8, 3))
        values[..., 2 - 2 * (number % 2)] += 90
        files.append(png16((values * 257).astype(np.uint16)))
    right = measure(Red(), files)
    assert (right[0].accuracy, right.warnings) == (1.0, [])

    class OfBgr(Red):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flip(1))

    wrong = measure(OfBgr(), files)
    assert wrong[0].accuracy == 0.0
    assert any("on 100% once their channels are reversed, so it expects BGR images" in each for each in wrong.warnings)


def test_crop(measure: Callable[..., Evaluation]) -> None:
    files = []
    for number in range(N):  # the class is that of the middle, the border says the other
        values = np.full((16, 16, 3), 250 if number % 2 == 0 else 5)
        values[4:12, 4:12] = 5 if number % 2 == 0 else 250
        files.append(png16((values * 257).astype(np.uint16)))
    assert measure(Light(), files, image_size=8)[0].accuracy == 0.0
    for reading in ({"crop": 0.5}, {"resize": 16}):
        found = measure(Light(), files, image_size=8, **reading)
        assert found[0].accuracy == 1.0
        assert "shorter side resized to 16 (bilinear), centre cropped to 8×8 pixels" in found.notes[-1]
