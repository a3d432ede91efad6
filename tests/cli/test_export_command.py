"""`inoculate export` and `inoculate evaluate --variants` on a small network and a folder of images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import inoculate as ino
from inoculate.core.extras import is_installed

pytestmark = pytest.mark.skipif(not is_installed("onnxruntime"), reason="pip install 'inoculate[onnx]'")
NETWORK = """\
import torch
from torch import nn
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 2))
"""


@pytest.fixture
def network(tmp_path: Path) -> str:
    (tmp_path / "code.py").write_text(NETWORK)
    return f"{tmp_path}/code.py:network"


def test_export_and_compare(
    call: Callable[..., int], network: str, pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for to, name in (("onnx", "a.onnx"), ("int8", "b.onnx"), ("torchscript", "c.ts")):
        assert call("export", network, "--to", to, "--data", pets, "--out", tmp_path / name) == 0
        assert f"{tmp_path / name} ({to}, 0.0" in capsys.readouterr().out
    out, rows = tmp_path / "out", tmp_path / "rows.json"
    variants = f"fp32,int8,{tmp_path / 'a.onnx'}"
    given = ("--model", network, "--variants", variants, "--data", pets, "--attack", "fgsm", "--eps", "1/255")
    assert call("evaluate", *given, "--out", out, "--json", rows) == 0
    printed = capsys.readouterr()
    assert "calibrated on the measured" not in printed.err, "the training part calibrates"
    assert f"as {variants.replace(',', ', ')} on 12 images" in printed.out
    found = ino.VariantComparison.load(out)
    assert found.variants == tuple(variants.split(","))
    assert [row.as_dict() for row in found] == json.loads(rows.read_text())
    assert (out / "variants" / "int8.onnx").is_file()
    direct = ino.evaluate_variants(
        network, ino.load_data(pets, split="test", image_size=32), variants.split(","), ["fgsm"],
        [ino.Threat("linf", 1 / 255)],
        options=ino.VariantOptions(calibration=ino.load_data(pets, split="train", image_size=32)),
    )  # fmt: skip
    assert direct.accuracies() == found.accuracies()


def test_a_gate_on_variants(call: Callable[..., int], network: str, pets: Path) -> None:
    given = ("evaluate", "--model", network, "--variants", "fp32,bf16", "--data", pets, "--attack", "fgsm")
    assert call(*given, "--require", "fgsm>=99%") == 1
    assert call(*given, "--require", "clean>1%") == 0


def test_what_does_not_go_with_variants(refused: Callable[..., str], network: str, pets: Path, tmp_path: Path) -> None:
    given = ("evaluate", "--model", network, "--data", pets, "--variants", "fp32,bf16")
    for option in (
        ("--corruptions", "fog"), ("--spatial", "30,3"), ("--time-budget", "1s"), ("--no-checks",),
        ("--surrogate", network), ("--records", tmp_path / "r.parquet"), ("--save-images", tmp_path / "images"),
        ("--executor", "processes:2"),
    ):  # fmt: skip
        assert f"{option[0]} does not go with --variants" in refused(*given, *option)
    assert "variant 'int7' is unknown" in refused(*given[:-1], "fp32,int7")
    assert "give a name that ends in .onnx" in refused("export", network, "--data", pets, "--out", tmp_path / "a.bin")
