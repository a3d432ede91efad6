"""`inoculate certify`: what the command prints and writes. tests/evaluation tests the job itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


def test_digits_from_end_to_end(call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--model", "dm_small", "--data", "digits")
    training = ("--method", "ibp", "--eps", "0.05", "--epochs", 2, "--option", "kappa=0.5", "--out", tmp_path / "model")
    assert call("train", *options, *training) == 0
    proofs = (
        "--limit", 20, "--eps", "0.005,0.02", "--attack", "pgd", "--no-checks", "--method", "crown-ibp",
        "--out", tmp_path / "proofs", "--json", tmp_path / "rows.json", "--require", "certified@0.02>=0.01,checks",
    )  # fmt: skip
    capsys.readouterr()
    assert call("certify", "--model", tmp_path / "model", "--data", "digits", *proofs) == 0
    printed = capsys.readouterr()
    rows = {(row["attack"], row["eps"]): row["correct"] for row in json.loads((tmp_path / "rows.json").read_text())}
    assert 0 < rows[("certified", 0.02)] <= rows[("certified", 0.005)] <= rows[("pgd", 0.005)] <= rows[("none", 0.0)]
    assert rows[("certified", 0.02)] <= rows[("pgd", 0.02)]
    assert "certified linf eps 0.02" in printed.out
    assert "passed: certificates: linf eps 0.02: certified" in printed.out
    assert "note: linf eps 0.02: certified" in printed.err
    assert "Proved" in (tmp_path / "proofs" / "report.html").read_text()


def test_what_cannot_be_certified_ends_with_a_line(refused: Callable[..., str], model_folder: Path) -> None:
    given = ("certify", "--model", model_folder, "--data", "digits", "--limit", 4)
    assert "not l0" in refused(*given, "--norm", "l0", "--eps", "3")
    assert "crwn" in refused(*given, "--method", "crwn")
    assert "executor 'threads' is not understood" in refused(*given, "--executor", "threads")
    assert "certified@0.3" in refused(*given, "--eps", "0.1", "--require", "certified@0.3>=0.5")


def test_smoothing(call: Callable[..., int], model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("certify", "--model", model_folder, "--data", "digits", "--limit", 3, "--norm", "l2", "--eps", "0.1")
    assert call(*given, "--method", "smoothing", "--sigma", 0.1, "--copies", 64, "--alpha", 0.01) == 0
    printed = capsys.readouterr()
    assert "certified l2 eps 0.1" in printed.out
    assert "smoothed, sigma 0.1" in printed.out
    assert "abstains from" in printed.err
