"""Models that give labels only, from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from servers import predictions, serving

CODE = """\
import torch
from torch import nn


class Labels(nn.Module):
    def forward(self, x):
        return (x.mean(dim=(1, 2, 3)) > 0.5).float()


def labels():
    return Labels()
"""
FEW = ("--limit", 4, "--no-checks")


def test_an_address_and_what_it_is_refused(
    pets: Path, call: Callable[..., int], refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    def classify(x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), dtype=torch.int64)

    with serving(predictions(classify)) as (url, sizes):
        assert "labels only" in refused("evaluate", "--model", url, "--data", pets, *FEW)
        assert (
            call(
                "evaluate",
                "--model",
                url,
                "--data",
                pets,
                *FEW,
                "--attack",
                "rays",
                "--eps",
                "0.01",
                "--time-budget",
                "1s",
            )
            == 0
        )
        printed = capsys.readouterr()
        assert "50.0%" in printed.out
        assert "labels only" in printed.err
        assert sizes
    assert "not on this machine" in refused("evaluate", "--model", "http://192.0.2.1/p", "--data", pets, *FEW)


def test_declared_labels(tmp_path: Path, pets: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "net.py").write_text(CODE)
    model = ("--model", f"{tmp_path / 'net.py'}:labels", "--data", pets, *FEW)
    assert "declare it with --outputs" in refused("evaluate", *model)
    assert "attack it with hopskipjump" in refused("evaluate", *model, "--outputs", "labels")
