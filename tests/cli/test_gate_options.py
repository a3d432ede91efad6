"""`inoculate evaluate --require`: the exit code, the one line, and the files of the verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from inoculate.core.row import Row
from inoculate.evaluation import evaluate as evaluating
from inoculate.evaluation.checks import Check
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.result import Evaluation

RUN = ("evaluate", "--data", "digits", "--limit", "20", "--attack", "pgd,fgsm", "--eps", "4/255,8/255", "--no-explain")
LABELS: dict[str, Any] = {"dataset": "digits", "model": "m", "arm": "standard", "protocol": "white-box", "seed": 0}
CORRECT = {("none", 0.0): 19, ("pgd", 4 / 255): 10, ("pgd", 8 / 255): 7, ("fgsm", 4 / 255): 12, ("fgsm", 8 / 255): 9,
           ("certified", 8 / 255): 5}  # fmt: skip


def stored(failed: bool = False) -> Evaluation:
    """An evaluation of 20 images, of which the first few are right."""
    per_image: dict[Row, PerSampleResult] = {}
    for (attack, eps), correct in CORRECT.items():
        result = PerSampleResult.empty(20, eps)
        result.right[:correct] = True
        per_image[result.row(**LABELS, attack=attack, norm="linf")] = result
    checks = [Check("one", True, "-"), Check("gradients", not failed, "-")]
    return Evaluation(list(per_image), per_image, checks, labels=torch.zeros(20, dtype=torch.int64))


@pytest.fixture
def gated(call: Callable[..., int], model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The exit code of an evaluation whose numbers are those of `stored`."""

    def run(*options: object, failed: bool = False) -> int:
        monkeypatch.setattr(evaluating, "evaluate", lambda *_, **__: stored(failed))
        return call(*RUN, "--model", model_folder, *options)

    return run


@pytest.mark.parametrize(
    ("require", "on", "code"),
    [
        ("clean>=95%", "estimate", 0),
        ("clean>=0.95", "estimate", 0),
        ("clean>95%", "estimate", 1),
        ("clean>=95.01%", "estimate", 1),
        ("clean>=0.9,pgd@8/255>=0.35", "estimate", 0),
        ("clean>=0.9,pgd@8/255>=0.36", "estimate", 1),
        ("clean>=0.96,pgd@8/255>=0.35", "estimate", 1),
        ("pgd@linf:8/255>=35%", "estimate", 0),
        ("pgd@8/255>35%", "estimate", 1),
        ("pgd@8/255>=35%", "low", 1),
        ("pgd@8/255>=18%", "low", 0),
        ("pgd@8/255>=18.2%", "low", 1),  # the interval of 7 of 20 is 18.12 % to 56.71 %
        ("pgd@8/255>=56%", "high", 0),
        ("pgd@8/255>=57%", "high", 1),
        ("pgd@4/255>=0.5", "estimate", 0),
        ("worst-case@8/255>=35%,worst-case@4/255>=50%", "estimate", 0),
        ("worst-case@8/255>=40%", "estimate", 1),
        ("worst-case@8/255>=35%,checks", "estimate", 0),
        ("worst-case@union>=35%", "estimate", 2),
        ("pgd@8/255>=0,35", "estimate", 2),
        ("pgd>=0.35", "estimate", 2),
        ("clean>=35", "estimate", 2),
        ("certified@8/255>=0.25", "estimate", 0),
        ("certified@linf:8/255>25%", "estimate", 1),
        ("certified@8/255>=0.25", "low", 1),
        ("certified@8/255>=11%", "low", 0),  # the interval of 5 of 20 is 11.19 % to 46.87 %
        ("certified@8/255>=46%", "high", 0),
        ("certified@8/255>=47%", "high", 1),
        ("certified>=0.2", "estimate", 2),
        ("certified@l0:3>=0.2", "estimate", 2),
        ("certified@linf:3>=0.2", "estimate", 2),
        ("certified@union>=0.2", "estimate", 2),
        ("pgd@l2:8/255>=0.2", "estimate", 2),
        ("pgd@2/255>=0.2", "estimate", 2),
        ("autoattack@8/255>=0.2", "estimate", 2),
        ("clean>=0.5", "middle", 2),
        ("", "estimate", 2),
    ],
)
def test_exit_codes(gated: Callable[..., int], require: str, on: str, code: int) -> None:
    assert gated("--require", require, "--require-on", on) == code


def test_a_failed_check_is_missed_only_where_it_is_required(gated: Callable[..., int]) -> None:
    assert gated("--require", "clean>=0.5", failed=True) == 0
    assert gated("--require", "clean>=0.5,checks", failed=True) == 1
    assert gated("--require", "checks", "--no-checks") == 2


def test_a_miss_is_one_line_and_everything_is_written(
    gated: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sarif, junit = tmp_path / "out", tmp_path / "a" / "gate.sarif", tmp_path / "b" / "gate.xml"
    files = ("--out", out, "--sarif", sarif, "--junit", junit)
    assert gated("--require", "clean>=0.9,pgd@8/255>=0.5", *files) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("warning", "note"))]
    assert line == (
        "missed: 1 of 2 requirements: pgd@linf:0.03137: accuracy 35.0%, required >= 50% "
        "(7 of 20 right, 95 % interval 18.1% to 56.7%)"
    )
    written = json.loads((out / "requirements.json").read_text())
    assert [each["met"] for each in written["outcomes"]] == [True, False]
    assert not written["met"]
    assert (out / "report.html").is_file()
    levels = [each["level"] for each in json.loads(sarif.read_text())["runs"][0]["results"]]
    assert levels == ["none", "error"]
    assert ElementTree.parse(junit).getroot().get("failures") == "1"
    assert gated("--require", "clean>=0.9", *files) == 0
    assert "met: clean: accuracy 95.0%" in capsys.readouterr().out
    assert ElementTree.parse(junit).getroot().get("failures") == "0"
    assert gated("--out", out) == 0
    assert not (out / "requirements.json").exists(), "the verdict of another run does not stay"


def test_nothing_is_computed_for_a_gate_that_cannot_be_answered(
    refused: Callable[..., str], model_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr(evaluating, "evaluate", fail)
    run = (*RUN, "--model", model_folder)
    assert "this run measures clean, pgd@linf:0.01569, pgd@linf:0.03137" in refused(*run, "--require", "square@0.1>=1%")
    assert "give --require too" in refused(*run, "--sarif", tmp_path / "x.sarif")
    assert "give --require too" in refused(*run, "--junit", tmp_path / "x.xml")
    assert "is a folder" in refused(*run, "--require", "clean>=1%", "--sarif", tmp_path)


def test_what_is_required_is_proven(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "linear.py").write_text(
        "import torch\ndef net():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10))\n"
    )
    rows, out = tmp_path / "rows.json", tmp_path / "out"
    run = ("evaluate", "--data", "digits", "--limit", "40", "--model", f"{tmp_path}/linear.py:net", "--attack", "fgsm",
           "--eps", "0.001", "--no-checks", "--no-explain", "--json", rows)  # fmt: skip
    require = (
        "--require",
        "certified@0.0001>0%,certified@l2:0.01>0%,certified@linf:0.001>0%",
        "--require-on",
        "high",
    )
    assert call(*run, *require, "--out", out) == 0
    found = {(row["attack"], row["norm"], row["eps"]): row["correct"] for row in json.loads(rows.read_text())}
    assert list(found)[2:] == [("certified", "linf", 0.0001), ("certified", "l2", 0.01), ("certified", "linf", 0.001)]
    assert 0 < found["certified", "linf", 0.001] <= found["certified", "linf", 0.0001] <= found["none", "linf", 0.0]
    assert found["certified", "linf", 0.001] <= found["fgsm", "linf", 0.001]
    assert "passed: certificates: linf eps 0.001" in capsys.readouterr().out
    assert call(*run, "--require", "certified@0.001>=99%") == 1
    assert "missed: certified@linf:0.001: accuracy" in capsys.readouterr().err
    assert call(*run) == 0
    assert "certified" not in rows.read_text(), "nothing is proven that is not required"


def test_a_layer_without_bounds_is_named(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "gelu.py").write_text(
        "import torch\ndef net(): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.GELU(), "
        "torch.nn.Linear(1024, 10))\n"
    )
    run = ("evaluate", "--data", "digits", "--limit", "4", "--model", f"{tmp_path}/gelu.py:net", "--attack", "fgsm")
    line = refused(*run, "--eps", "0.1", "--require", "certified@0.1>=1%")
    assert "no bounds are known of layer 1 (GELU, gelu): use smoothing" in line
    assert "inoculate certify" in line
    assert "this run measures clean" in refused(
        *run, "--eps", "0.1", "--variants", "fp32,bf16", "--require", "certified@0.1>=1%"
    )


def test_a_real_evaluation_is_gated(call: Callable[..., int], model_folder: Path) -> None:
    run = ("evaluate", "--data", "digits", "--limit", "20", "--model", model_folder, "--attack", "fgsm", "--eps", "0.1")
    fog = ("--no-checks", "--corruptions", "fog", "--severity", "2")
    assert call(*run, *fog, "--require", "fgsm@0.1>=99%") == 1
    assert call(*run, *fog, "--require", "fog@2>=0.001%,clean>=0.001%", "--require-on", "high") == 0
