"""Several processes, or one with a batch in parts, harden and study what one process does."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import together_worker
import torch

from inoculate.attacks.registry import ATTACKS
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.models.loading.load import load_model
from inoculate.study.run import run_study

TOLERANCE = 1e-3  # of a weight; batches are summed in another order
KILLS = 20


def start(folder: Path, *jobs: str, join: int = 600) -> list[subprocess.Popen[str]]:
    """Two processes of some jobs, without a launcher that would end the one for the other; they wait so many seconds
    for each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    folder.mkdir(exist_ok=True)
    command = [sys.executable, together_worker.__file__, str(folder), *jobs]
    common = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "JOIN": str(join),
    }
    return [
        subprocess.Popen(command, env={**common, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]


def finish(processes: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
    """Exit codes and errors."""
    errors = [process.communicate()[1] for process in processes]
    return [process.returncode for process in processes], "\n".join(errors)


def facts(folder: Path, *jobs: str) -> list[dict[str, Any]]:
    """What each process has seen."""
    codes, errors = finish(start(folder, *jobs))
    assert codes == [0, 0], errors
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """What two processes have seen, and the folder."""
    folder = tmp_path_factory.mktemp("together")
    return folder, facts(folder, "harden", "study")


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process hardens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ATTACKS, "autoattack", ATTACKS["autoattack"])  # put back afterwards
        return together_worker.describe(together_worker.run_harden(None))


@pytest.fixture
def _own_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTACKS, "autoattack", ATTACKS["autoattack"])  # put back afterwards


def apart(one: list[float], other: list[float]) -> float:
    return float((torch.tensor(one) - torch.tensor(other)).abs().max())


Both = tuple[Path, list[dict[str, Any]]]


def test_two_processes_harden_what_one_does(both: Both, alone: dict[str, Any]) -> None:
    folder, (one, other) = both
    found = one["hardened"]
    assert apart(found["weights"], alone["weights"]) < TOLERANCE
    assert [[*row[:3], row[4]] for row in found["rows"]] == [[*row[:3], row[4]] for row in alone["rows"]]
    assert all(abs(row[3] - own[3]) <= 1 for row, own in zip(found["rows"], alone["rows"], strict=True))
    assert one == other, "each process returns the same result"
    assert (found["reused"], one["reused"]["reused"]) == (False, True)
    assert one["reused"]["rows"] == found["rows"]
    assert "README.md" in {path.name for path in (folder / "hardened").iterdir()}


@pytest.mark.usefixtures("_own_attacks")
def test_a_batch_in_parts_hardens_as_the_whole_does(alone: dict[str, Any]) -> None:
    options = replace(together_worker.OPTIONS, accumulate=3)
    parts = together_worker.describe(together_worker.run_harden(None, options))
    assert 0 < apart(alone["weights"], parts["weights"]) < TOLERANCE, "the sums were made in another order"


def test_two_processes_study_what_one_does(both: Both, tmp_path: Path) -> None:
    folder, (one, _) = both
    alone = run_study(together_worker.STUDY, out=tmp_path)
    expected = [[row.key, row.correct, row.n] for row in alone]
    assert one["made"] == alone.made
    assert [[row[0], row[2]] for row in one["rows"]] == [[key, n] for key, _, n in expected]
    assert all(abs(row[1] - own[1]) <= 1 for row, own in zip(one["rows"], expected, strict=True))
    stores = [sorted((place / "store" / "fit").iterdir()) for place in (folder / "study", tmp_path)]
    assert [path.name for path in stores[0]] == [path.name for path in stores[1]]
    for pair in zip(*stores, strict=True):
        assert apart(*(together_worker.weights(load_model(path)) for path in pair)) < TOLERANCE
    assert "use executor local" in one["error"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"training": {"batch_size": 16, "accumulate": 3}}, "a batch of 16 cannot be divided evenly"),
        (
            {"training": {"batch_size": 16, "accumulate": 2}, "arms": ["standard", "free"]},
            "methods free, fgsm_pgi, rrm and live_surrogate carry state",
        ),
    ],
)
def test_a_study_that_cannot_be_divided_is_refused_at_once(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        run_study(together_worker.STUDY | changes, out=tmp_path)
    assert not list(tmp_path.glob("store/*/*"))


def test_a_hardening_that_cannot_be_divided_is_refused_at_once(tmp_path: Path) -> None:
    from inoculate.hardening.harden import harden
    from inoculate.hardening.options import HardeningOptions

    options = HardeningOptions(epochs=1, batch_size=24, limit=72, image_size=12, test_images=10, accumulate=2)
    with pytest.raises(InputError, match="carry state from batch to batch"):
        harden("small_cnn", "digits", Threat("linf", 0.1), method="free", out=tmp_path, options=options)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.usefixtures("_own_attacks")
def test_a_hardening_whose_processes_are_killed_goes_on(tmp_path: Path) -> None:
    """Twenty times one of them is killed at a random moment: the other ends soon, and the next run goes on."""
    began = time.monotonic()
    expected = facts(tmp_path / "whole", "harden")[0]["hardened"]
    usual, draw, kills, runs = time.monotonic() - began, random.Random(0), 0, 0
    while kills < KILLS:
        folder, runs = tmp_path / f"killed {runs}", runs + 1
        while kills < KILLS and not (folder / "0.json").exists():
            kills += killed_once(folder, usual * draw.uniform(0.3, 0.9), kills % 2)
        found = facts(folder, "harden")[0]["hardened"]
        assert apart(found["weights"], expected["weights"]) < 1e-6
        assert found["rows"] == expected["rows"]
        assert not list(folder.rglob("*.partial"))
    assert runs < KILLS, "most runs were killed more than once"


def killed_once(folder: Path, seconds: float, number: int) -> bool:
    """Kill one of two processes of a hardening after so long, unless it has ended by then. The other ends soon."""
    processes = start(folder, "harden", join=30)
    time.sleep(seconds)
    victim, other = processes[number], processes[1 - number]
    was_running = victim.poll() is None
    victim.kill()
    began = time.monotonic()
    codes, errors = finish(processes)
    assert time.monotonic() - began < 60, "the measurement that the main process was at included"
    assert not was_running or codes[number] == -9, errors
    assert other.returncode in (0, 1), errors
    assert other.returncode == 0 or "InputError" in errors, errors
    return was_running
