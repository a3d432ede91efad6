"""The journal: an evaluation that is stopped goes on, and nothing is measured twice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from attack_samples import small_net
from torch import Tensor, nn

from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.pgd import PGD
from inoculate.core.row import Row
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.journal import describe
from inoculate.evaluation.transfer import TransferOptions, transfer

THREATS = [Threat("linf", 0.02), Threat("linf", 0.1)]
ENSEMBLE = AutoAttack("quick", steps=4, targets=2, queries=20)


class Counting(nn.Module):
    """A network that counts the images it sees, and stops the process after so many."""

    def __init__(self, inner: nn.Module, stop_after: float = float("inf")) -> None:
        super().__init__()
        self.inner, self.seen, self.stop_after = inner, 0, stop_after

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        if self.seen > self.stop_after:
            raise KeyboardInterrupt
        out: Tensor = self.inner(x)
        return out

    def extra_repr(self) -> str:
        return ""


def counting(stop_after: float = float("inf"), weight: float = 0.0) -> Counting:
    net = small_net()
    with torch.no_grad():
        next(net.parameters()).add_(weight)
    return Counting(net, stop_after)


def measure(model: nn.Module, data: Dataset, store: Path | None, attacks=None, threats=THREATS, **more) -> list[Row]:
    more = {"batch_size": 8, **more}
    options = EvaluationOptions(checks=False, precision="exact", store=store)
    found = evaluate(model, data, attacks or {"autoattack": ENSEMBLE}, threats, options=options, **more)
    return [replace(row, seconds=0.0) for row in found.rows]


@pytest.fixture
def data() -> Dataset:
    images = torch.randint(256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    return Dataset.from_tensors(images, small_net()(images / 255).argmax(dim=1), ["a", "b", "c", "d"])


def test_a_stopped_evaluation_goes_on_and_gives_the_same_rows(data: Dataset, tmp_path: Path) -> None:
    whole = counting()
    expected, all_seen = measure(whole, data, None, batch_size=4), whole.seen
    seen, stops = 0, 0
    while True:
        model = counting(stop_after=all_seen // 3)
        try:
            rows = measure(model, data, tmp_path, batch_size=4)
        except KeyboardInterrupt:
            seen, stops = seen + model.seen, stops + 1
            assert stops < 30
            continue
        break
    assert rows == expected
    assert stops > 1
    most = 4 * (2 * 4 * 2 + 2) * 2 * 2  # passes of one batch of the costliest member, judged and verified
    assert seen + model.seen <= all_seen + (stops + 1) * most


def test_nothing_is_measured_twice(data: Dataset, tmp_path: Path) -> None:
    whole, again = counting(), counting()
    first = measure(whole, data, tmp_path)
    assert measure(again, data, tmp_path) == first
    assert again.seen < whole.seen / 8  # to prepare the model, and to choose what is audited


def test_more_images_measure_only_the_new_ones(data: Dataset, tmp_path: Path) -> None:
    half, alone, whole = counting(), counting(), counting()
    measure(half, data.subset(range(20)), tmp_path)
    measure(alone, data.subset(range(20, 40)), None)
    rows = measure(whole, data, tmp_path)
    assert whole.seen <= alone.seen * 1.2
    assert rows == measure(counting(), data, None)


def test_one_more_attack_measures_only_that(data: Dataset, tmp_path: Path) -> None:
    measure(counting(), data, tmp_path, {"pgd": PGD(steps=20)})
    model = counting()
    rows = measure(model, data, tmp_path, {"pgd": PGD(steps=20), "fgsm": FGSM()})
    assert model.seen < 10 * len(data)
    assert rows == measure(counting(), data, None, {"pgd": PGD(steps=20), "fgsm": FGSM()})


@dataclass(frozen=True)
class Own:
    """An attack of the user's own."""

    by: float = 0.5
    calls: ClassVar[list[float]] = []

    def __call__(self, model, x, y, threat, *, generator=None):
        self.calls.append(self.by)
        return (x + self.by * threat.eps).clamp(threat.low, threat.high)


CHANGES = {
    "weights": {"weight": 0.3},
    "attack": {"attacks": {"attack": PGD(steps=3, step=0.5)}},
    "eps": {"threats": [Threat("linf", 0.021)]},
    "range": {"threats": [Threat("linf", 0.1, high=1.05)]},
    "mask": {"threats": [Threat("linf", 0.1, mask=torch.eye(8))]},
    "masks": {"threats": [Threat("linf", 0.1, mask=torch.eye(8).expand(40, 1, 8, 8))]},
    "norm": {"threats": [Threat("l2", 0.1)]},
    "seed": {"seed": 1},
    "images": {"flip": True},
    "labels": {"roll": True},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_a_number_makes_it_anew(change: str, data: Dataset, tmp_path: Path) -> None:
    usual = {"attacks": {"attack": PGD(steps=3)}, "threats": [Threat("linf", 0.1)]}
    measure(counting(), data, tmp_path, **usual)
    asked = {**usual, **CHANGES[change]}
    weight = asked.pop("weight", 0.0)
    if asked.pop("flip", False):
        data = replace(data, images=data.images.flip(-1).contiguous())  # with the digest of the others
    if asked.pop("roll", False):
        data = replace(data, labels=data.labels.roll(1))
    assert measure(counting(weight=weight), data, tmp_path, **asked) == measure(
        counting(weight=weight), data, None, **asked
    )


def test_functions_are_told_apart_by_what_they_answer(data: Dataset, tmp_path: Path) -> None:
    def made(scale: float):
        net = small_net()
        return lambda x: net(scale * x)

    for scale in (1.0, 0.2, -1.0):
        assert measure(made(scale), data, tmp_path) == measure(made(scale), data, None)


def test_an_attack_of_ones_own_is_kept_and_one_with_a_function_is_measured_anew(data: Dataset, tmp_path: Path) -> None:
    for attack in (Own(), Own(0.9), lambda model, x, y, threat, *, generator=None: Own(0.7)(model, x, y, threat)):
        expected = measure(counting(), data, tmp_path, {"own": attack})
        before = len(Own.calls)
        assert measure(counting(), data, tmp_path, {"own": attack}) == expected
        assert (len(Own.calls) > before) == (not isinstance(attack, Own))
    with pytest.raises(TypeError):
        describe(lambda: 0)


class Noisy(Counting):
    """A random model."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.randn_like(x))


def test_a_random_model_gives_the_same_rows_when_it_goes_on(data: Dataset, tmp_path: Path) -> None:
    whole, attacks = Noisy(small_net()), {"pgd": PGD(steps=3, eot=2)}
    expected = measure(whole, data, None, attacks)
    with pytest.raises(KeyboardInterrupt):
        measure(Noisy(small_net(), stop_after=0.7 * whole.seen), data, tmp_path, attacks)
    rest = Noisy(small_net())
    assert measure(rest, data, tmp_path, attacks) == expected
    assert rest.seen < 0.7 * whole.seen


def test_a_damaged_file_is_measured_anew(data: Dataset, tmp_path: Path) -> None:
    expected = measure(counting(), data, tmp_path)
    for number, path in enumerate(sorted(tmp_path.rglob("*.npz"))):
        content = path.read_bytes()
        path.write_bytes((b"", content[: len(content) // 2], b"nonsense", content)[number % 4])
    assert measure(counting(), data, tmp_path) == expected


def test_kept_images_come_back(data: Dataset, tmp_path: Path) -> None:
    options = EvaluationOptions(checks=False, keep_images=True, store=tmp_path)
    first, again = (evaluate(small_net(), data, ["pgd"], THREATS, options=options) for _ in range(2))
    for row, other in zip(first.rows[1:], again.rows[1:], strict=True):
        assert torch.equal(first.images[row], again.images[other])


def test_transfer_goes_on(data: Dataset, tmp_path: Path) -> None:
    def run(store: Path | None, models: tuple[Counting, Counting]) -> list[Row]:
        named = dict(zip("ab", models, strict=True))
        options = TransferOptions("exact", store=store)
        rows = transfer(named, data, PGD(steps=3), THREATS, batch_size=8, options=options).rows
        return [replace(row, seconds=0.0) for row in rows]

    whole = (counting(), counting(weight=0.2))
    expected = run(None, whole)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, (counting(), counting(stop_after=whole[1].seen // 2, weight=0.2)))
    rest = (counting(), counting(weight=0.2))
    assert run(tmp_path, rest) == expected
    assert rest[0].seen + rest[1].seen < 0.8 * (whole[0].seen + whole[1].seen)
