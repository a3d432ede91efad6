"""`inoculate compare`: exit codes, what is printed and what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def runs(call: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders `good` and `bad`: a model of bright and dark images, and one that says bright of all."""
    import numpy as np
    from PIL import Image

    place = tmp_path_factory.mktemp("compare")
    for name, value in (("bright", 200), ("dark", 60)):
        (place / "data" / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.full((8, 8, 3), value + number, dtype=np.uint8)
            Image.fromarray(pixels).save(place / "data" / name / f"{number}.png")
    (place / "nets.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, bias): super().__init__(); self.bias = bias\n"
        "    def forward(self, x):\n"
        "        mean = x.flatten(1).mean(1) - self.bias\n"
        "        return torch.stack([mean, -mean], dim=1)\n"
        "def good(): return Net(0.5)\n"
        "def bad(): return Net(-1.0)\n"
    )
    for name in ("good", "bad"):
        attack = ("--attack", "fgsm", "--eps", "0.01", "--no-checks", "--no-explain", "--split", "all")
        out = ("--out", place / name)
        assert call("evaluate", "--model", f"{place}/nets.py:{name}", "--data", place / "data", *attack, *out) == 0
    return place


def test_a_worse_model_is_exit_code_1(
    call: Callable[..., int], runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    files = ("--json", tmp_path / "c.json", "--sarif", tmp_path / "c.sarif", "--junit", tmp_path / "c.xml")
    assert call("compare", runs / "good", runs / "bad", *files) == 1
    printed = capsys.readouterr()
    assert "WORSE clean: 100.0% to 50.0%, -50.0 points" in printed.out
    assert "broke anew: dark/0.png" in printed.out
    assert printed.err.startswith("missed: 2 of 2 requirements: clean: 100.0% to 50.0%")
    assert len(printed.err.strip().splitlines()) == 1
    assert json.loads((tmp_path / "c.json").read_text())["changes"][0]["p"] == pytest.approx(2 * 2 / 2**10)
    assert json.loads((tmp_path / "c.sarif").read_text())["runs"][0]["results"][0]["ruleId"] == "no-regression"
    assert (tmp_path / "c.xml").is_file()


def test_what_is_allowed_and_what_is_better_is_exit_code_0(call: Callable[..., int], runs: Path) -> None:
    assert call("compare", runs / "bad", runs / "good") == 0
    assert call("compare", runs / "good", runs / "good") == 0
    assert call("compare", runs / "good", runs / "bad", "--allow", "50%") == 0
    assert call("compare", runs / "good", runs / "bad", "--allow", "0.49") == 1


def test_mistakes_are_one_line(refused: Callable[..., str], runs: Path, tmp_path: Path) -> None:
    assert "is not a share" in refused("compare", runs / "good", runs / "bad", "--allow", "two")
    assert "is not a share" in refused("compare", runs / "good", runs / "bad", "--allow", "2")
    assert "results.json" in refused("compare", tmp_path / "nowhere", runs / "bad")
