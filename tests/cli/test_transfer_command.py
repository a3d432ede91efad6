"""`inoculate transfer`: what the command prints and writes. tests/evaluation tests the job itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from inoculate.models.loading.checkpoints import ModelSpec, save_model


def test_it_writes_its_rows_and_tells_long_names_apart(
    call: Callable[..., int],
    refused: Callable[..., str],
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "a-folder-with-a-long-name" / "second"
    spec = ModelSpec("test_resnet", tuple("0123456789"), 1, 32)
    other.mkdir(parents=True)
    save_model(other, spec.build(seed=1), spec)
    models = ("--model", model_folder, "--model", other)
    attack = ("--attack", "fgsm", "--eps", "0.02,0.1", "--json", tmp_path / "rows.json")
    assert call("transfer", *models, "--data", "digits", "--limit", "40", *attack) == 0
    printed = capsys.readouterr().out
    assert f"A = {model_folder}" in printed.replace("\n", "")
    assert f"B = {other}" in printed.replace("\n", "")
    assert "evaluated on B" in printed
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {(row["model"], row["protocol"]) for row in rows if row["eps"] == 0.02} == {
        (str(model_folder), "white-box"),
        (str(model_folder), f"transfer:{other}/standard"),
        (str(other), "white-box"),
        (str(other), f"transfer:{model_folder}/standard"),
    }
    for row in rows:
        assert not row["eps"] or f"{row['accuracy']:.1%}" in printed
    assert "given twice" in refused("transfer", *models[:2], *models[:2], "--data", "digits")


def test_workers_write_the_same_rows(
    call: Callable[..., int], refused: Callable[..., str], model_folder: Path, tmp_path: Path
) -> None:
    attack = ("--data", "digits", "--limit", "20", "--attack", "fgsm", "--eps", "0.02", "--precision", "exact")
    given = ("transfer", "--model", model_folder, *attack)
    found = []
    for executor in ("local", "processes:2"):
        assert call(*given, "--executor", executor, "--json", tmp_path / "rows.json") == 0
        found.append([{**row, "seconds": 0} for row in json.loads((tmp_path / "rows.json").read_text())])
    assert found[0] == found[1]
    assert "executor 'threads' is not understood" in refused(*given, "--executor", "threads")
