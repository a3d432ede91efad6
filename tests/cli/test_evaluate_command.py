"""`inoculate evaluate`: what the command prints and writes. tests/evaluation tests the job itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from inoculate.attribution import explain as explaining
from inoculate.attribution.explanation import Amounts

DIGITS = ("evaluate", "--data", "digits", "--limit", "20")


@pytest.mark.smoke
def test_it_prints_accuracies_and_writes_rows(
    call: Callable[..., int], model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows" / "out.json"
    attacks = ("--attack", "fgsm,bim", "--eps", "0.01,8/255", "--no-checks")
    assert call(*DIGITS, "--model", model_folder, *attacks, "--json", file) == 0
    rows = json.loads(file.read_text())
    assert [(row["attack"], row["eps"]) for row in rows] == [
        ("none", 0.0), ("fgsm", 0.01), ("fgsm", 8 / 255), ("bim", 0.01), ("bim", 8 / 255),
    ]  # fmt: skip
    assert all(row["n"] == 20 and row["protocol"] == "white-box" for row in rows)
    printed = capsys.readouterr().out
    for row in rows:
        assert f"{row['accuracy']:.1%}" in printed
    assert "clean" in printed


def test_a_function_in_a_file_and_a_folder_of_images(
    call: Callable[..., int], pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))\n"
    )
    assert call("evaluate", "--model", f"{tmp_path}/mine.py:net", "--data", pets, "--norm", "l2", "--eps", "1.5") == 0
    assert "pgd l2 eps 1.5" in capsys.readouterr().out


def test_out_receives_everything_and_a_page(
    call: Callable[..., int],
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = Amounts(images=2, stability=4, fragility=6, steps=4, search=4)
    monkeypatch.setattr(explaining, "explain", partial(explaining.explain, amounts=few))
    arguments = (*DIGITS, "--model", model_folder, "--attack", "fgsm", "--eps", "0.05", "--out", tmp_path)
    assert call(*arguments) == 0
    assert "report.html" in capsys.readouterr().out
    html = (tmp_path / "report.html").read_text()
    for part in ("Accuracy, %", ">Checks<", "Attacked images", "Margin and gradient norm"):
        assert part in html
    assert {path.name for path in tmp_path.iterdir()} == {
        *("results.json", "records.npz", "per_image.npz", "thumbnails.npz", "evaluation.json", "checks.json"),
        *("tables.md", "tables.csv", "tables.tex", "explanations", "figures", "report.html", "store"),
    }
    assert call("report", tmp_path) == 0
    assert (tmp_path / "report.html").read_text() == html
    assert call(*arguments, "--no-explain", "--no-checks") == 0
    html = (tmp_path / "report.html").read_text()
    assert "Attacked images" not in html
    assert ">Checks<" not in html


def test_a_model_without_gradients_is_measured_and_not_explained(
    call: Callable[..., int], constant_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*DIGITS, "--model", constant_model, "--attack", "square", "--no-checks", "--out", tmp_path / "out")
    assert call(*arguments) == 0
    assert "explains nothing" in capsys.readouterr().err
    assert "Attacked images" not in (tmp_path / "out" / "report.html").read_text()


def test_outputs_are_declared(
    call: Callable[..., int], refused: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def net(k):\n"
        "    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, k))\n"
        "def background(): return net(11)\n"
        "def log_probabilities(): return nn.Sequential(net(10), nn.LogSoftmax(1))\n"
        "def sigmoid(): return nn.Sequential(net(10), nn.Hardtanh(), nn.Sigmoid())\n"
        "def saturated():\n"
        "    made = net(10)\n"
        "    made[2].weight.data.mul_(1e6)\n"
        "    return made\n"
    )

    def measure(name: str, *options: str) -> tuple[object, ...]:
        return (
            *DIGITS,
            "--model",
            f"{tmp_path}/mine.py:{name}",
            "--attack",
            "fgsm",
            "--eps",
            "0.1",
            "--no-checks",
            *options,
        )

    assert "--outputs background-" in refused(*measure("background"))
    for name, kind in (
        ("background", "background-first"),
        ("log_probabilities", "log-probabilities"),
        ("sigmoid", "sigmoid"),
    ):
        assert call(*measure(name, "--outputs", kind)) == 0
        assert "outputs" not in capsys.readouterr().err
    assert call(*measure("log_probabilities")) == 0
    assert "--outputs log-probabilities" in capsys.readouterr().err
    assert "declared as probabilities and go from" in refused(*measure("saturated", "--outputs", "probabilities"))
    assert "use one of logits, probabilities" in refused(*measure("sigmoid", "--outputs", "softmax"))
    assert call(*measure("saturated")) == 0
    assert "its logits are saturated" in capsys.readouterr().err


def test_few_pixels_and_patches(
    call: Callable[..., int], model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.json"
    threat = ("--norm", "l0", "--eps", "1,9", "--no-checks", "--json", file)
    assert call(*DIGITS, "--model", model_folder, "--attack", "fgsm,patch", *threat) == 0
    assert [(row["attack"], row["norm"], row["eps"]) for row in json.loads(file.read_text())[1:]] == [
        ("fgsm", "l0", 1), ("fgsm", "l0", 9), ("patch", "l0", 1), ("patch", "l0", 9),
    ]  # fmt: skip
    for options, said in (
        (("--attack", "pgd", "--norm", "l0", "--eps", "8/255"), "not a number of pixels"),
        (("--attack", "square", "--norm", "l0", "--eps", "3"), "no version for l0"),
        (("--attack", "sigma_zero", "--eps", "0.1"), "give norm l0"),
    ):
        assert call(*DIGITS, "--model", model_folder, *options, "--no-checks") == 2
        assert said in capsys.readouterr().err


def picture(path: Path, size: tuple[int, int], colour: object, mode: str = "L") -> Path:
    image = Image.new(mode, size, colour)  # type: ignore[arg-type]
    image.save(path)
    return path


def test_a_mask_from_a_region_and_from_a_file(
    call: Callable[..., int], model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    white = picture(tmp_path / "sticker.png", (32, 32), 255)
    rows = []
    for mask in ("center:0.5", white, None):
        chosen = ("--mask", mask) if mask else ()
        common = ("--attack", "fgsm", "--eps", "0.2", "--no-checks", "--json", tmp_path / "out.json")
        assert call(*DIGITS, "--model", model_folder, *common, *chosen) == 0
        rows += [row for row in json.loads((tmp_path / "out.json").read_text()) if row["attack"] == "fgsm"]
    assert rows[0]["mask"] == "center:0.5"
    assert rows[1]["mask"].startswith("sticker.png-")
    assert "mask" not in rows[2]
    assert rows[0]["correct"] >= rows[1]["correct"] == rows[2]["correct"]
    assert "fgsm linf in center:0.5 eps 0.2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: picture(path, (33, 32), 255), "is 32×33 pixels and the images are 32×32"),
        (lambda path: picture(path, (32, 32), 0), "is all black"),
        (lambda path: picture(path, (32, 32), 127), "is not black and white (row 0, column 0)"),
        (lambda path: picture(path, (32, 32), (255, 0, 0), "RGB"), "is not black and white"),
        (lambda path: picture(path, (32, 32), (255, 255, 255, 10), "RGBA"), "is not black and white"),
        (lambda path: path, "no such file"),
        (lambda path: path.write_text("no picture") and path, "cannot be read"),
        (lambda path: "center:2", "names no region"),
        (lambda path: "middle", "names no region"),
    ],
)
def test_a_bad_mask_is_refused_in_one_line(
    make: Callable[[Path], object],
    said: str,
    call: Callable[..., int],
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = ("--attack", "fgsm", "--no-checks", "--mask", make(tmp_path / "mask.png"))
    assert call(*DIGITS, "--model", model_folder, *chosen) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_common_corruptions(call: Callable[..., int], model_folder: Path, tmp_path: Path) -> None:
    chosen = ("--attack", "fgsm", "--no-checks", "--corruptions", "contrast,fog", "--severity", "1,4-5")
    assert call(*DIGITS, "--model", model_folder, *chosen, "--json", tmp_path / "out.json") == 0
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [row.get("severity", 0) for row in rows] == [0, 0, 1, 4, 5, 1, 4, 5, 0]
    assert rows[-1]["attack"] == "mean_corruption"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("rain", "--severity", "1"), "corruption 'rain'"),
        (("fog", "--severity", "6"), "severity 6"),
        (("fog", "--severity", "high"), "severity 'high'"),
        (("fog", "--severity", "5-1"), "no severity"),
        (("fog", "--severity", "1-999999999999"), "severity 999999999999"),
    ],
)
def test_an_unknown_corruption_is_refused_in_one_line(
    wrong: tuple[str, ...], said: str, call: Callable[..., int], model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*DIGITS, "--model", model_folder, "--corruptions", *wrong) == 2
    assert said in capsys.readouterr().err


def test_rotations_and_shifts(
    call: Callable[..., int], model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ("--limit", "10", "--attack", "fgsm", "--no-checks", "--spatial", "10,5%", "--json", tmp_path / "out.json")
    assert call("evaluate", "--data", "digits", "--model", model_folder, *chosen) == 0
    row = json.loads((tmp_path / "out.json").read_text())[-1]
    assert (row["attack"], row["movements"]) == ("spatial_grid", "±10°, ±1.6 px, 31×5×5")
    for wrong in ("30", "a,b", "30;3", "200,3"):
        assert call(*DIGITS, "--model", model_folder, "--spatial", wrong) == 2
        assert "Traceback" not in capsys.readouterr().err
