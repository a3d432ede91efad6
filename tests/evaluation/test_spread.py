"""An evaluation whose batches are measured by several workers: the rows of one process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping
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
from inoculate.attacks.pgd import PGD
from inoculate.attacks.rays import RayS
from inoculate.attacks.square import Square
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import Settings, measure_attack
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.journal import Journal
from inoculate.evaluation.result import Evaluation
from inoculate.evaluation.spread import spread_over
from inoculate.evaluation.transfer import TransferOptions
from inoculate.models.classifier import prepare

THREATS = [Threat("linf", 0.02), Threat("linf", 0.1)]
ENSEMBLE = AutoAttack("quick", steps=3, targets=1, queries=10)


def measure(
    model: Any, data: Dataset, executor: Any = "local", attacks: Any = None, threats: Any = THREATS, **more: Any
) -> Evaluation:
    direct = {name: more.pop(name) for name in ("seed", "progress") if name in more}
    options = EvaluationOptions(**{"checks": False, "precision": "exact", **more}, executor=executor)
    return evaluate(model, data, attacks or {"autoattack": ENSEMBLE}, threats, batch_size=8, options=options, **direct)


def same(found: Evaluation, expected: Evaluation) -> bool:
    """Whether two evaluations found the same of every image."""
    rows = [[replace(row, seconds=0.0) for row in each.rows] for each in (found, expected)]
    pairs = zip(found.per_image.values(), expected.per_image.values(), strict=True)
    tensors = [
        torch.equal(getattr(one, name), getattr(other, name))
        for one, other in pairs
        for name in ("right", "predicted", "finished", "broken_by", "audited")
    ]
    return rows[0] == rows[1] and all(tensors)


@pytest.fixture
def data() -> Dataset:
    images = torch.randint(256, (30, 3, 8, 8), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    return Dataset.from_tensors(images, small_net()(images / 255).argmax(dim=1), ["a", "b", "c", "d"])


class Noisy(nn.Module):
    """A random model."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_net()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x + 0.1 * torch.randn_like(x))
        return out


class Labels(nn.Module):
    """A model that gives labels only."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_net()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x).argmax(dim=1)
        return out


CASES: dict[str, dict[str, Any]] = {
    "ensemble": {},
    "fast copy": {"precision": "fast", "attacks": {"pgd": PGD(), "fgsm": FGSM()}},
    "checks": {"checks": True, "attacks": {"pgd": PGD(), "square": Square(queries=30)}, "threats": THREATS[1:]},
    "early termination": {"attacks": {"a": AutoAttack(steps=4, targets=1, queries=10, termination_ratio=0.02)}},
    "norms": {"attacks": {"pgd": PGD(steps=3)}, "threats": [Threat("linf", 0.05), Threat("l2", 0.3)]},
    "a target": {"attacks": {"pgd": PGD(steps=3, target="random")}},
    "a mask for each": {
        "attacks": {"pgd": PGD(steps=3)},
        "threats": [
            Threat("linf", 0.1, mask=torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.4)
        ],
    },
    "random model": {"model": Noisy, "attacks": {"pgd": PGD(steps=2, eot=2)}, "threats": THREATS[:1], "seed": 4},
    "labels only": {"model": Labels, "attacks": {"rays": RayS(queries=30)}, "threats": THREATS[1:]},
}


@pytest.mark.parametrize("case", CASES)
def test_the_workers_find_of_every_image_what_one_process_finds(case: str, data: Dataset) -> None:
    asked, executor = dict(CASES[case]), Alike()
    build = asked.pop("model", small_net)
    expected, found = measure(build(), data, **asked), measure(build(), data, executor, **asked)
    assert same(found, expected)
    assert found.rows[0].n == len(data)
    assert [(each.name, each.passed) for each in found.checks] == [(each.name, each.passed) for each in expected.checks]
    assert found.warnings == expected.warnings
    assert executor.opened == 1
    assert sum(executor.sizes) > 1.5 * len(data), "clean and attacked"
    assert max(executor.sizes) <= 8


def test_kept_images_come_back(data: Dataset) -> None:
    expected, found = (measure(small_net(), data, executor, keep_images=True) for executor in ("local", Alike()))
    for row, other in zip(found.rows[1:], expected.rows[1:], strict=True):
        assert (found.images[row] - expected.images[other]).abs().max() < 1e-5


def test_what_is_kept_is_not_sent_and_what_is_found_is_kept(data: Dataset, tmp_path: Path) -> None:
    half, whole, again = Alike(), Alike(), Alike()
    asked: dict[str, Any] = {"attacks": {"pgd": PGD(steps=3)}, "threats": THREATS[1:], "store": tmp_path}
    measure(small_net(), data.subset(range(14)), "local", **asked)
    found = measure(small_net(), data, whole, **asked)
    assert sum(whole.sizes) <= 2 * 16
    assert same(measure(small_net(), data, again, **asked), found)
    assert not again.sizes
    assert not half.opened
    assert same(measure(small_net(), data, "local", **asked), found)


def test_a_time_budget_ends_the_work_of_the_workers(data: Dataset) -> None:
    def slow(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: Any = None) -> Tensor:
        raise AssertionError("cannot be sent")

    found = measure(small_net(), data, Alike(), {"pgd": PGD(steps=3)}, THREATS[1:], time_budget=1000)
    assert same(found, measure(small_net(), data, "local", {"pgd": PGD(steps=3)}, THREATS[1:], time_budget=1000))
    late = measure(small_net(), data, Alike(), {"pgd": PGD(steps=3)}, THREATS[1:], time_budget=0.0001)
    assert [row.attack for row in late] == ["none"]
    with pytest.raises(InputError, match=r"the attack .* cannot be sent to other processes .*executor local"):
        measure(small_net(), data, Alike(), {"slow": slow}, THREATS[1:])


def test_a_late_batch_leaves_the_others_finished(data: Dataset, tmp_path: Path) -> None:
    """In whatever order they come, and wherever what was kept before lies among them."""

    class Late(Alike):
        def run(self, graph: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
            for number, (node, made) in enumerate(super().run(graph)):
                yield node, None if number == 1 else made

    classifier = prepare(small_net(), data, precision="exact")
    chosen = torch.zeros(len(data), dtype=torch.bool)
    chosen[20:25] = True
    attack, here = PGD(steps=3), Settings(8, journal=Journal.at(tmp_path))
    measure_attack(classifier, data, attack, THREATS[1:], chosen, here)
    with spread_over(Late(), tmp_path, [classifier], data, here) as spread:
        (found,) = measure_attack(classifier, data, attack, THREATS[1:], ~chosen | chosen, spread)
    (expected,) = measure_attack(classifier, data, attack, THREATS[1:], ~chosen | chosen, replace(here, journal=None))
    assert int(found.finished.sum()) == len(data) - 8
    assert found.finished[20:25].all()
    assert torch.equal(found.right[found.finished], expected.right[found.finished])
    assert found.right[~found.finished].all()


def lambda_of(net: nn.Module) -> Any:
    return lambda x: net(x)


class Closed(nn.Module):
    """A network whose hook holds what cannot be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_net()
        self.inner.register_forward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out


@pytest.mark.parametrize("model", [lambda_of(small_net()), Closed()], ids=["function", "hook"])
def test_a_model_that_cannot_be_sent_is_refused_in_one_line(model: Any, data: Dataset) -> None:
    with pytest.raises(InputError, match="the model cannot be sent to other processes") as raised:
        measure(model, data, "processes:2")
    assert "executor local" in str(raised.value)
    assert "\n" not in str(raised.value)


class Changing(nn.Module):
    """A network that arrives as another one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.sign = small_net(), 1

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.sign = -1

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.sign * self.inner(x)
        return out


def test_a_model_that_arrives_as_another_one_is_refused(data: Dataset) -> None:
    with pytest.raises(InputError, match="a worker has another model"):
        measure(Changing(), data, Alike())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9 here")
def test_processes_find_what_one_does_while_workers_are_killed(data: Dataset, tmp_path: Path) -> None:
    killed: list[int] = []

    def progress(what: str, done: int, total: int) -> None:
        children = multiprocessing.active_children()
        if what == "autoattack" and len(killed) < 2 and done > 20 * (len(killed) + 1):
            killed.append(children[0].pid or 0)
            os.kill(killed[-1], signal.SIGKILL)

    found = measure(small_net(), data, Processes(2), store=tmp_path, progress=progress)
    assert same(found, measure(small_net(), data))
    assert len(killed) == 2
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("executor", ["threads", "processes:0", 3])
def test_another_executor_is_refused_at_once(executor: Any) -> None:
    for options in (EvaluationOptions, TransferOptions):
        with pytest.raises(InputError, match="give local, processes") as raised:
            options(executor=executor)
        assert "\n" not in str(raised.value)


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_whose_machines_share_nothing_finds_what_one_process_does(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'inoculate[ray]'")
    from inoculate.artifacts.executors import ray as executors

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # its workers import the samples too
    expected = measure(small_net(), data)
    assert same(measure(small_net(), data, "ray", store=tmp_path), expected)
    monkeypatch.setattr(executors, "identify", lambda store: "of another folder")
    assert same(measure(small_net(), data, "ray"), expected)
