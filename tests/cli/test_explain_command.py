"""`inoculate explain`: what the command writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

SMALL = ("--data", "digits", "--limit", "12", "--images", "2", "--attack", "fgsm", "--eps", "0.05")


def test_out_receives_an_explanation_and_a_page(
    call: Callable[..., int], model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--model", model_folder, "--before", model_folder, "--out", tmp_path)
    assert call("explain", *SMALL, *arguments) == 0
    assert "report.html" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"explain.json", "explain.npz", "report.html"}
    html = (tmp_path / "report.html").read_text()
    assert "Attacked images" in html
    assert "on the image crafted before its retraining" in html


def test_mistakes_are_one_line(refused: Callable[..., str], constant_model: str, tmp_path: Path) -> None:
    assert "not differentiable" in refused("explain", *SMALL, "--model", constant_model, "--out", tmp_path / "out")
    assert "not a number" in refused(
        "explain", *SMALL, "--eps", "0.1,0.2", "--model", constant_model, "--out", tmp_path / "out"
    )
