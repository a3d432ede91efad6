"""A command with `--out` is killed at random moments, goes on, and loses at most the batch it was at."""

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


COMMON = ("--data", "digits", "--eps", "0.02", "--batch-size", "16")
JOBS = {
    "evaluate": ("--attack", "autoattack_quick", "--no-checks", "--no-explain"),
    "transfer": ("--attack", "pgd"),
    "certify": ("--method", "smoothing", "--norm", "l2", "--copies", "2000"),
}


def command(job: str, model: Path, out: Path, limit: int, executor: str = "local") -> list[str]:
    given = ["--model", str(model), "--limit", str(limit), "--out", str(out), "--executor", executor]
    return [sys.executable, "-m", "inoculate", job, *given, *COMMON, *JOBS[job]]


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
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9 here")
@pytest.mark.parametrize(
    ("job", "executor", "kills"),
    [("evaluate", "local", KILLS), *((job, "processes:2", 4) for job in JOBS)],
)
def test_a_killed_run_goes_on_and_computes_nothing_twice(
    job: str, executor: str, kills: int, model_folder: Path, tmp_path: Path
) -> None:
    whole, out, environment = tmp_path / "whole", tmp_path / "killed", {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(out: Path, limit: int, executor: str = "local") -> subprocess.Popen[bytes]:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command(job, model_folder, out, limit, executor), env=environment, **quiet)

    began = time.monotonic()
    assert start(whole, 60).wait() == 0
    usual, draw = time.monotonic() - began, random.Random(0)
    for _ in range(kills):
        process = start(out, 60, executor)
        time.sleep(usual * draw.uniform(0.5, 0.95))
        before = kept(out)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert before <= kept(out)  # what was kept once is never lost
    assert start(out, 60, executor).wait() == 0
    assert rows(out) == rows(whole)
    assert kept(out) == kept(whole)
    files = writing_times(out)
    assert start(out, 120, executor).wait() == 0
    assert {path: time_ for path, time_ in writing_times(out).items() if path in files} == files
    assert start(whole, 120).wait() == 0
    assert rows(out) == rows(whole)
