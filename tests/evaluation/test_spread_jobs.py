"""`transfer` and `certify` whose batches are worked on by several workers: the rows of one process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attack_samples import small_net
from executor_samples import Alike
from torch import Tensor, nn

from inoculate.artifacts.executors.processes import Processes
from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.fmn import FMN
from inoculate.attacks.pgd import PGD
from inoculate.certification.smoothing import Smoothing
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.certify import CertificationOptions, certify
from inoculate.evaluation.evaluate import EvaluationOptions
from inoculate.evaluation.transfer import TransferOptions, transfer

THREATS = [Threat("linf", 0.02), Threat("linf", 0.1)]
Run = Callable[..., Any]


class Noisy(nn.Module):
    """A random model."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_net(seed=5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x + 0.1 * torch.randn_like(x))
        return out


def run_transfer(data: Dataset, executor: Any, attack: Any = None, model: Any = None, **more: Any) -> Any:
    models = {"a": small_net(), "b": small_net(seed=1), "c": model or small_net(seed=2)}
    direct = {name: more.pop(name) for name in ("seed", "progress") if name in more}
    options = TransferOptions(**{"precision": "exact", **more}, executor=executor)
    return transfer(models, data, attack or PGD(steps=3), THREATS, batch_size=8, options=options, **direct)


def run_certify(data: Dataset, executor: Any, method: str = "crown-ibp", attacks: Any = ("fgsm",), **more: Any) -> Any:
    own = EvaluationOptions(checks=False, precision="exact", executor=executor, **more)
    options = CertificationOptions(method, Smoothing(0.1, n=128, n0=16, alpha=0.05), own)
    threats = [Threat("l2", 0.02), Threat("l2", 0.1)] if method == "smoothing" else [Threat("linf", 0.002), *THREATS]
    return certify(small_net(), data, threats, attacks, batch_size=8, options=options)


CASES: dict[str, tuple[Run, dict[str, Any]]] = {
    "transfer": (run_transfer, {}),
    "fast copies": (run_transfer, {"precision": "fast"}),
    "an average": (run_transfer, {"sources": ["a", "a+b"]}),
    "an ensemble": (run_transfer, {"attack": AutoAttack("quick", steps=1, targets=1, queries=2)}),
    "minimum norm": (run_transfer, {"attack": FMN(steps=5)}),
    "a target": (run_transfer, {"attack": PGD(steps=2, target="random")}),
    "a random model": (run_transfer, {"model": Noisy(), "attack": FGSM(), "seed": 3}),
    "intervals": (run_certify, {"method": "ibp"}),
    "linear bounds": (run_certify, {}),
    "smoothing": (run_certify, {"method": "smoothing"}),
}
ARRAYS = ("right", "predicted", "finished", "broken_by")


def same(found: Any, expected: Any) -> bool:
    """Whether two results hold the same of every image, up to the rounding of margins."""
    one, other = ([replace(row, seconds=0.0) for row in each.rows] for each in (found, expected))
    pairs = list(zip(found.per_image.values(), expected.per_image.values(), strict=True))
    equal = all(torch.equal(getattr(first, name), getattr(second, name)) for first, second in pairs for name in ARRAYS)
    margins = [torch.allclose(first.margin, second.margin, atol=1e-4, equal_nan=True) for first, second in pairs]
    return one == other and equal and all(margins)


@pytest.fixture
def data() -> Dataset:
    images = torch.randint(256, (20, 3, 8, 8), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    return Dataset.from_tensors(images, small_net()(images / 255).argmax(dim=1), ["a", "b", "c", "d"])


@pytest.mark.parametrize("case", CASES)
def test_workers_find_of_every_image_what_one_process_finds(case: str, data: Dataset) -> None:
    run, asked = CASES[case]
    executor = Alike()
    expected, found = run(data, "local", **asked), run(data, executor, **asked)
    assert same(found, expected)
    assert found.rows[0].n == len(data)
    assert found.warnings == expected.warnings
    assert sum(executor.sizes) >= 1.5 * len(data) or case == "smoothing"
    assert max(executor.sizes) <= 8


@pytest.mark.parametrize("case", ["transfer", "an average", "linear bounds", "smoothing"])
def test_a_stopped_run_goes_on_with_what_is_missing(case: str, data: Dataset, tmp_path: Path) -> None:
    run, asked = CASES[case]
    whole, rest = Alike(), Alike()
    expected = run(data, whole, **asked)
    first = Alike(stop_after=2 * len(whole.sizes) // 3)
    with pytest.raises(KeyboardInterrupt):
        run(data, first, **asked, store=tmp_path)
    assert same(run(data, rest, **asked, store=tmp_path), expected)
    assert sum(first.sizes) + sum(rest.sizes) <= sum(whole.sizes) + 8, "one batch was under way"
    again = Alike()
    assert same(run(data, again, **asked, store=tmp_path), expected)
    assert same(run(data, "local", **asked, store=tmp_path), expected)
    assert not again.sizes


@pytest.mark.parametrize("case", ["transfer", "smoothing"])
def test_more_images_are_all_that_is_sent(case: str, data: Dataset, tmp_path: Path) -> None:
    run, asked = CASES[case]
    half, whole, rest = Alike(), Alike(), Alike()
    run(data.subset(range(10)), half, **asked, store=tmp_path)
    expected = run(data, whole, **asked)
    assert same(run(data, rest, **asked, store=tmp_path), expected)
    assert sum(half.sizes) + sum(rest.sizes) <= sum(whole.sizes)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9 here")
def test_processes_transfer_what_one_does_while_a_worker_is_killed(data: Dataset, tmp_path: Path) -> None:
    killed: list[int] = []

    def progress(what: str, done: int, total: int) -> None:
        if what == "b" and not killed and done < total:
            killed.append(multiprocessing.active_children()[0].pid or 0)
            os.kill(killed[-1], signal.SIGKILL)

    found = run_transfer(data, Processes(2), store=tmp_path, progress=progress)
    assert same(found, run_transfer(data, "local"))
    assert len(killed) == 1
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["smoothing", "crown-ibp"])
def test_processes_certify_what_one_does(method: str, data: Dataset) -> None:
    assert same(run_certify(data, "processes:2", method), run_certify(data, "local", method))
    assert not multiprocessing.active_children()


SCRIPT = """
from dataclasses import dataclass

import torch
from torch import nn

import inoculate as ino

FACTOR = 0.7


def move(x, threat):
    return (x + FACTOR * threat.eps).clamp(threat.low, threat.high)


@dataclass(frozen=True)
class Own:
    def __call__(self, model, x, y, threat, *, generator=None):
        return move(x, threat)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(12, 3)

    def forward(self, x):
        return self.inner(x.flatten(1)) * FACTOR


if __name__ == "__main__":
    torch.manual_seed(0)
    net, data = Net(), (torch.randint(256, (40, 3, 2, 2), dtype=torch.uint8), torch.arange(40) % 3)
    for executor in ("local", "processes:2"):
        options = ino.EvaluationOptions(checks=False, executor=executor)
        print([row.correct for row in ino.evaluate(net, data, [Own(), "pgd"], options=options, batch_size=8)])
"""


@pytest.mark.slow
def test_what_a_script_defines_is_sent(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    local, spread = ran.stdout.strip().splitlines()
    assert local == spread


def test_what_cannot_be_sent_is_refused_in_one_line(data: Dataset) -> None:
    net = small_net()
    options = TransferOptions(executor=Alike())
    with pytest.raises(InputError, match=r"the model cannot be sent to other processes .*executor local") as raised:
        transfer({"a": small_net(), "b": lambda x: net(x)}, data, FGSM(), THREATS, options=options)
    assert "\n" not in str(raised.value)


def test_a_time_budget_ends_the_proofs_of_workers(data: Dataset) -> None:
    assert same(run_certify(data, Alike(), time_budget=1000), run_certify(data, "local", time_budget=1000))
    late = run_certify(data, Alike(), attacks=(), time_budget=0.0001)
    assert [row.correct for row in late if row.attack == "certified"] == [0, 0, 0]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("case", ["transfer", "linear bounds", "smoothing"])
def test_a_cluster_finds_what_one_process_does(
    case: str, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'inoculate[ray]'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # its workers import the samples too
    run, asked = CASES[case]
    assert same(run(data, "ray", **asked, store=tmp_path), run(data, "local", **asked))
