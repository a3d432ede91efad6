"""`--weights` on the command line: the same as in Python, what was done on the first screen, refusals in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inoculate.cli import run
from inoculate.models.build import build_model

COMMAND = ["evaluate", "--data", "digits", "--limit", "10", "--attack", "fgsm", "--no-checks", "--model"]


def save(path: Path, **changes: int) -> None:
    state = build_model("resnet10t", **{"classes": 10, "channels": 1, "image_size": 8, **changes})[1].state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}, path)


def test_what_was_done_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "w.pth")
    assert run([*COMMAND, "resnet10t", "--weights", str(tmp_path / "w.pth")]) == 0
    err = capsys.readouterr().err
    assert "note: weights" in err
    assert "without the prefix 'module.'" in err
    assert "warning: weights" in err
    assert "do not say how images are normalised" in err
    assert "random weights" not in err


def test_refusals_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "w.pth", classes=7)
    (tmp_path / "page.pth").write_text("<html>")
    for arguments, says in (
        (["resnet10t", "--weights", str(tmp_path / "w.pth")], "7 classes and the network's 10"),
        (["resnet10t", "--weights", str(tmp_path / "page.pth")], "web page"),
        ([str(tmp_path / "w.pth")], "--weights"),
    ):
        assert run([*COMMAND, *arguments]) == 2
        err = capsys.readouterr().err
        assert says in err
        assert "Traceback" not in err
        assert len(err.strip().splitlines()) == 1
