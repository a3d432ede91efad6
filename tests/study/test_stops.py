"""A study that is stopped: killed at any moment, or interrupted by a person."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from test_run import STUDY, numbers

from inoculate.artifacts.rows import read_rows


def command(folder, out):
    path = folder / "study.yaml"
    path.write_text(STUDY)
    return [sys.executable, "-m", "inoculate", "study", "run", str(path), "--out", str(out)]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """For every process: threads of one that wait for each other stand still on a machine that others keep busy."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_killed_five_times_and_resumed_gives_the_same_numbers(tmp_path):
    """Both runs are processes of their own, as a person's are: the number of threads moves the last digits."""
    whole, out, moments = tmp_path / "whole", tmp_path / "out", random.Random(4)
    subprocess.run(command(tmp_path, whole), check=True, stdout=subprocess.DEVNULL)
    for _ in range(5):
        process = subprocess.Popen(command(tmp_path, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = len(list(out.glob("store/*/*/manifest.json")))
        deadline = time.monotonic() + 60
        while len(list(out.glob("store/*/*/manifest.json"))) == before and process.poll() is None:
            assert time.monotonic() < deadline, "no progress between two kills"
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 1.5))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command(tmp_path, out), check=True, stdout=subprocess.DEVNULL)
    assert numbers(read_rows(out / "results.json")) == numbers(read_rows(whole / "results.json"))


def test_interrupt_leaves_results_so_far_and_exits_with_130(tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(tmp_path, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(out.glob("store/evaluate/*/manifest.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in err
    assert "Traceback" not in err
    assert read_rows(out / "results.json")
