"""`evaluate --out` is killed at random moments, goes on, and loses at most the batch it was at."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inoculate.artifacts.chunks import Chunks
from inoculate.artifacts.files import read_json
from inoculate.evaluation.journal import CHUNKS, KIND

KILLS = 10
LIMIT = 300  # seconds for all of it


def command(model: Path, out: Path, limit: int, executor: str = "local") -> list[str]:
    chosen = ["--model", str(model), "--data", "digits", "--limit", str(limit), "--attack", "autoattack_quick"]
    more = [
        "--eps",
        "0.02",
        "--batch-size",
        "16",
        "--no-checks",
        "--no-explain",
        "--out",
        str(out),
        "--executor",
        executor,
    ]
    return [sys.executable, "-m", "inoculate", "evaluate", *chosen, *more]


def rows(out: Path) -> list[dict[str, object]]:
    """The rows of a run without their seconds."""
    return [
        {name: value for name, value in row.items() if name != "seconds"} for row in read_json(out / "results.json")
    ]


def kept(out: Path) -> set[tuple[str, bytes]]:
    """The folder and the key of every result in the store."""
    folders = [folder for folder in (out / "store" / KIND).glob("*") if folder.is_dir()]
    return {(folder.name, key) for folder in folders for key in Chunks(folder / CHUNKS).keys}


def writing_times(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (out / "store").rglob("*.npz")}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9 here")
@pytest.mark.parametrize(("executor", "kills"), [("local", KILLS), ("processes:2", 4)])
def test_a_killed_evaluation_goes_on_and_computes_nothing_twice(
    executor: str, kills: int, model_folder: Path, tmp_path: Path
) -> None:
    whole, out, environment = tmp_path / "whole", tmp_path / "killed", {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    subprocess.run(command(model_folder, whole, 60), check=True, env=environment, capture_output=True)
    usual, draw = time.monotonic() - began, random.Random(0)
    for _ in range(kills):
        process = subprocess.Popen(
            command(model_folder, out, 60, executor),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(usual * draw.uniform(0.5, 0.95))
        before = kept(out)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert before <= kept(out)  # what was kept once is never lost
    subprocess.run(command(model_folder, out, 60, executor), check=True, env=environment, capture_output=True)
    assert rows(out) == rows(whole)
    assert kept(out) == kept(whole)
    files = writing_times(out)
    subprocess.run(command(model_folder, out, 120, executor), check=True, env=environment, capture_output=True)
    assert {path: time_ for path, time_ in writing_times(out).items() if path in files} == files
    subprocess.run(command(model_folder, whole, 120), check=True, env=environment, capture_output=True)
    assert rows(out) == rows(whole)
