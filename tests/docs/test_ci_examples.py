"""The shipped workflow and hook: their commands run in a clean environment, and end with the right exit codes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import inoculate
from inoculate import cli

CI = Path(__file__).parents[2] / "examples" / "ci"
NETWORK = """\
import torch
class Net(torch.nn.Module):
    def forward(self, x):
        mean = x.flatten(1).mean(1) - 0.5
        return torch.stack([mean, -mean], dim=1)
def network(): return Net()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with images of two classes and a network that tells them apart."""
    folder = tmp_path_factory.mktemp("ci")
    (folder / "net.py").write_text(NETWORK)
    for name, value in (("bright", 190), ("dark", 60)):
        (folder / "my_images" / name).mkdir(parents=True)
        for number in range(50):
            pixels = np.full((8, 8, 3), value + number // 2, dtype=np.uint8)
            pixels[0, 0] = number
            Image.fromarray(pixels).save(folder / "my_images" / name / f"{number}.png")
    return folder


def run(command: list[str], place: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing of this environment but the interpreter's folder and the package."""
    home = place / "home"
    home.mkdir(exist_ok=True)
    environment = {
        "HOME": str(home), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(inoculate.__file__).parents[1]), "OMP_NUM_THREADS": "1", **variables,
    }  # fmt: skip
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=200)


def steps() -> dict[str, dict[str, Any]]:
    job = yaml.safe_load((CI / "robustness.yml").read_text())["jobs"]["robustness"]
    return {step["name"]: step for step in job["steps"] if "name" in step} | {"env": job["env"]}


def step(name: str, place: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run one step as the host's shell would, with the job's variables but for `changes`."""
    variables = {**steps()["env"], "MODEL": "net.py:network", "ATTACK": "pgd", **changes}
    return run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", steps()[name]["run"]], place, **variables)


@pytest.mark.slow  # each step is a process of its own
def test_the_steps_of_the_workflow_run_in_a_clean_environment(place: Path) -> None:
    passed = step("Evaluate", place, REQUIRE="clean>=80%,pgd@8/255>=35%")
    assert passed.returncode == 0, passed.stderr
    assert json.loads((place / "robustness.sarif").read_text())["runs"][0]["results"][0]["kind"] == "pass"
    assert "<testsuites" in (place / "robustness.xml").read_text()
    assert step("Compare with the released model", place).returncode == 0, "there is no released model yet"
    os.rename(place / "robustness", place / "released")
    missed = step("Evaluate", place, REQUIRE="clean>=80%,pgd@8/255>=99.9%")
    assert missed.returncode == 1
    assert missed.stderr.strip().splitlines()[-1].startswith("missed: 1 of 2 requirements: pgd@linf:0.03137")
    compared = step("Compare with the released model", place)
    assert compared.returncode == 0, compared.stderr
    assert step("Evidence", place).returncode == 0
    evidence = json.loads((place / "robustness" / "evidence" / "evidence.json").read_text())
    assert not evidence["verdict"]["met"]
    assert evidence["comparison"]["worse"] is False


def test_the_workflow_goes_on_after_a_miss_and_uploads_what_it_wrote() -> None:
    found = steps()
    assert found["Install"]["run"] == "pip install inoculate"
    later = [name for name in found if name not in ("Install", "Evaluate", "env")]
    assert all(found[name]["if"] == "always()" for name in later)
    assert found["Show the verdict beside the code"]["with"]["sarif_file"] in found["Evaluate"]["run"]


@pytest.mark.parametrize(("eps", "code"), [("8/255", 0), ("120/255", 1)])
def test_the_hook_runs(place: Path, monkeypatch: pytest.MonkeyPatch, eps: str, code: int) -> None:
    (hook,) = yaml.safe_load((CI / "pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert hook["pass_filenames"] is False
    words = shlex.split(hook["entry"].replace("my_model", "net.py:network").replace("8/255", eps))
    assert words[0] == "inoculate"
    monkeypatch.chdir(place)
    assert cli.run(words[1:]) == code
