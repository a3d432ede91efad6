"""Runs commands in this process; a model's folder and folders of images to run them on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inoculate.cli import run
from inoculate.models.loading.checkpoints import ModelSpec, save_model


def call_command(*arguments: object) -> int:
    return run([str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def call() -> Callable[..., int]:
    """Run a command; returns its exit code."""
    return call_command


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must be refused; returns its one line."""

    def refuse(*arguments: object) -> str:
        capsys.readouterr()
        assert call_command(*arguments) == 2, arguments
        printed = capsys.readouterr().err
        lines = printed.strip().splitlines()
        assert len(lines) == 1, printed
        assert lines[0].startswith("error: "), printed
        return lines[0]

    return refuse


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small network for digits."""
    folder = tmp_path_factory.mktemp("model")
    spec = ModelSpec("test_resnet", tuple("0123456789"), 1, 32)
    save_model(folder, spec.build(), spec)
    return folder


@pytest.fixture(scope="session")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images of two classes."""
    folder, rng = tmp_path_factory.mktemp("pets"), np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / name).mkdir()
        for number in range(30):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def constant_model(tmp_path: Path) -> str:
    """The SPEC of a model whose output does not depend on the image."""
    (tmp_path / "constant.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n"
        "    def forward(self, x): return torch.arange(10.0).repeat(len(x), 1)\n"
        "def net(): return Net()\n"
    )
    return f"{tmp_path}/constant.py:net"
