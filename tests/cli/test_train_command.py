"""`inoculate train`: the folder that it writes can be evaluated. tests/training tests the job itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


def test_a_trained_folder_can_be_evaluated_and_reported(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", "digits", "--image-size", "12")
    arguments = ("--model", "small_cnn", *data, "--limit", "100", "--epochs", "1", "--out", tmp_path / "model")
    assert call("train", *arguments) == 0
    assert "validation accuracy" in capsys.readouterr().out
    assert call("train", *arguments) == 0
    assert "finished here before" in capsys.readouterr().out
    evaluate = ("--model", tmp_path / "model", *data, "--limit", "20", "--attack", "fgsm", "--no-checks")
    assert call("evaluate", *evaluate) == 0
    assert "fgsm" in capsys.readouterr().out
    assert call("report", tmp_path / "model") == 0
    assert "Validation accuracy" in (tmp_path / "model" / "report.html").read_text()


def test_mistakes_are_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    small = ("train", "--model", "small_cnn", "--data", "digits", "--out", tmp_path / "model")
    assert "method standard has no eps" in refused(*small, "--eps", "8/255")
    assert "write it like steps=7" in refused(*small, "--method", "pgd_at", "--option", "steps")
    assert "--epochs" in refused(*small, "--epochs", "0")
