"""Classes that the data and the model name or number differently, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from class_samples import one_hot_images
from PIL import Image

ATTACK = ("--split", "all", "--attack", "fgsm", "--eps", "0.05", "--no-checks")
LOOKUP = """
import torch

def lookup(outputs, count):
    layer = torch.nn.Linear(64, count, bias=False)
    torch.nn.init.zeros_(layer.weight)
    with torch.no_grad():
        for pixel, output in enumerate(outputs):
            layer.weight[output, pixel] = 5
    return torch.nn.Sequential(torch.nn.Flatten(), layer)

def numbered(): return lookup([0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9], 11)
def imagenet(): return lookup([217, 0], 1000)
def ten(): return lookup([0, 1], 10)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("classes") / "mine.py"
    file.write_text(LOOKUP)
    return str(file)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[Sequence[str]], Path]:
    def make(classes: Sequence[str]) -> Path:
        """Four images a class, whose white pixel has the number of its folder in alphabetical order."""
        for pixel, name in enumerate(sorted(classes)):
            (tmp_path / "data" / name).mkdir(parents=True)
            image = Image.fromarray(one_hot_images(torch.tensor([pixel]))[0, 0].numpy())
            for number in range(4):
                image.save(tmp_path / "data" / name / f"{number}.png")
        return tmp_path / "data"

    return make


def test_numbered_folders(
    call: Callable[..., int],
    models: str,
    folder: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("evaluate", "--model", f"{models}:numbered", "--data", folder(list(map(str, range(11)))), *ATTACK)
    assert call(*arguments) == 0
    printed = capsys.readouterr()
    assert "warning: the model numbers the classes otherwise" in printed.err
    assert "sorted as numbers (2 before 10)" in printed.err
    (tmp_path / "names.txt").write_text("\n".join(map(str, range(11))))
    assert call(*arguments, "--class-names", tmp_path / "names.txt", "--json", tmp_path / "rows.json") == 0
    assert json.loads((tmp_path / "rows.json").read_text())[0]["accuracy"] == 1
    assert "matched by the given names" in capsys.readouterr().err


def test_two_folders_of_imagenet(
    call: Callable[..., int],
    models: str,
    folder: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, model = folder(["tench", "English springer"]), f"{models}:imagenet"
    for classes in ("all", "subset"):
        out = tmp_path / classes
        files = ("--json", out / "rows.json", "--save-images", out / "images", "--records", out / "r.parquet")
        arguments = ("evaluate", "--model", model, "--data", data, *ATTACK, "--eps", "0.6", "--classes", classes)
        assert call(*arguments, *files) == 0
        clean, attacked = json.loads((out / "rows.json").read_text())
        assert (clean["accuracy"], attacked["accuracy"]) == (1, 0)
        warned = capsys.readouterr().err
        assert "2 of the model's 1000 outputs are the classes of data" in warned
        assert f"a prediction is the largest of {'all 1000' if classes == 'all' else 'these 2'}" in warned
        assert len(list((out / "images").rglob("*English_springer-as-tench.png"))) == 4
    assert (
        call("transfer", "--model", model, "--data", data, "--split", "all", "--eps", "0.6", "--json", out / "t") == 0
    )
    assert json.loads((out / "t").read_text())[0]["accuracy"] == 1


def test_what_cannot_be_matched_is_one_line(
    refused: Callable[..., str], models: str, folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = folder(["cat", "dog"])
    arguments = ("evaluate", "--data", data, *ATTACK, "--model")
    assert "name the outputs with --class-names FILE" in refused(*arguments, f"{models}:ten")
    assert "no name of data (cat, dog) is one of ImageNet's" in refused(*arguments, f"{models}:imagenet")
    assert "cannot be read" in refused(*arguments, f"{models}:ten", "--class-names", tmp_path / "none.txt")
    assert "all, subset" in refused(*arguments, f"{models}:ten", "--classes", "most")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    for command in ("evaluate", "transfer", "explain"):
        out = ("--out", tmp_path / "out") if command == "explain" else ()
        line = refused(
            command, "--data", data, "--model", f"{models}:ten", "--class-names", tmp_path / "names.txt", *out
        )
        assert "2 class names are given and the model has 10 outputs" in line
