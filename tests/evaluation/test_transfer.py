from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from evaluation_samples import NotANumber, measured
from torch import Tensor, nn

from inoculate.attacks.base import Attack
from inoculate.attacks.bim import BIM
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.mifgsm import MIFGSM
from inoculate.attacks.pgd import PGD
from inoculate.attacks.registry import get_attack
from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.core.row import Row
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import Settings, measure_transfer
from inoculate.evaluation.transfer import TransferOptions, transfer
from inoculate.models.classifier import prepare

EPSILONS = (0.05, 0.0, 0.1)


@pytest.fixture(scope="module")
def split() -> Dataset:
    """300 of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images / 16 * 255).round().to(torch.uint8)[:300, None]
    return Dataset.from_tensors(images, torch.from_numpy(data.target).long()[:300], name="digits")


def trained(split: Dataset, width: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(4)]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * width, 10))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        x = to_float(split.images)
        for _ in range(25):
            optimizer.zero_grad()
            F.cross_entropy(model(x), split.labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model


@pytest.fixture(scope="module")
def models(split: Dataset) -> dict[str, nn.Module]:
    return {"small": trained(split, 8, 0), "large": trained(split, 24, 1).eval(), "other": trained(split, 8, 2)}


def crossed(
    models: Mapping[str, nn.Module],
    split: Dataset,
    attack: Attack,
    epsilons: Sequence[float] = EPSILONS,
    *,
    batch_size: int = 256,
    **options: Any,
) -> list[Row]:
    """The rows of `transfer`; `seed` and `progress` go to it, all else are its options."""
    direct = {name: options.pop(name) for name in ("seed", "progress") if name in options}
    threats = [Threat("linf", eps) for eps in epsilons]
    chosen = TransferOptions(**options)
    return transfer(models, split, attack, threats, batch_size=batch_size, options=chosen, **direct).rows


def table(rows: list[Row]) -> dict[tuple[str, str, str, float], int]:
    found = {(r.model, r.attack, r.protocol, r.eps): r.correct for r in rows}
    assert len(found) == len(rows)
    return found


def test_a_row_for_every_pair_and_eps(models: dict[str, nn.Module], split: Dataset) -> None:
    rows = crossed(models, split, FGSM(), seed=3, arm="augmented", batch_size=128)
    assert [(r.model, r.attack, r.protocol, r.eps) for r in rows[:3]] == [
        (name, "none", "white-box", 0.0) for name in models
    ]
    assert [(r.protocol, r.model, r.eps) for r in rows[3:]] == [
        ("white-box" if source == target else f"transfer:{source}/augmented", target, eps)
        for source, target, eps in product(models, models, EPSILONS)
    ]
    assert {(r.dataset, r.arm, r.norm, r.seed, r.n) for r in rows} == {("digits", "augmented", "linf", 3, 300)}
    assert {r.attack for r in rows[3:]} == {"fgsm"}
    assert all(r.seconds >= 0 for r in rows)


def test_equals_a_count_by_hand(models: dict[str, nn.Module], split: Dataset) -> None:
    """Every image is attacked; an error on the clean image is one under attack, whatever the example does."""
    got = table(crossed(models, split, FGSM(), precision="exact", batch_size=77))
    nets = {name: model.eval() for name, model in models.items()}
    for source, eps in product(nets, EPSILONS):
        x = to_float(split.images).requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(nets[source](x), split.labels, reduction="sum"), x)
        x_adv = (x + eps * gradient.sign()).clamp(0, 1)
        for target, net in nets.items():
            right = (net(x).argmax(1) == split.labels) & (net(x_adv).argmax(1) == split.labels)
            protocol = "white-box" if source == target else f"transfer:{source}/standard"
            assert abs(got[target, "fgsm", protocol, eps] - int(right.sum())) <= 1


def test_the_diagonal_is_evaluates_white_box(models: dict[str, nn.Module], split: Dataset) -> None:
    """To within a tie: `evaluate` attacks other batches, and with `fast` may stop early where an image is broken."""
    for attack, precision in product((FGSM(), BIM(steps=3), PGD(steps=2)), ("exact", "fast")):
        check_diagonal(models, split, attack, precision)


def check_diagonal(models: dict[str, nn.Module], split: Dataset, attack: Attack, precision: str) -> None:
    key = type(attack).__name__.lower()
    got = table(crossed(models, split, attack, precision=precision))
    threats = [Threat("linf", eps) for eps in EPSILONS]
    for name, model in models.items():
        rows = measured(model, split, {key: attack}, threats, precision=precision, name=name).rows
        for where, expected in table(rows).items():
            assert abs(got[where] - expected) <= (12 if key == "pgd" else 3 if precision == "fast" else 1)
    assert got["small", key, "white-box", 0.1] < got["small", key, "white-box", 0.05]
    assert got["small", key, "white-box", 0.1] < got["small", key, "transfer:large/standard", 0.1]


def test_eps_zero_is_clean_and_a_good_model_is_fooled_by_others(models: dict[str, nn.Module], split: Dataset) -> None:
    got = table(crossed(models, split, BIM(steps=3)))
    for source, target in product(models, models):
        protocol = "white-box" if source == target else f"transfer:{source}/standard"
        clean = got[target, "none", "white-box", 0.0]
        assert got[target, "bim", protocol, 0.0] == clean
        assert clean >= got[target, "bim", protocol, 0.05] >= got[target, "bim", protocol, 0.1]
        assert got[target, "bim", protocol, 0.1] < clean


def test_the_order_of_the_models_does_not_matter(models: dict[str, nn.Module], split: Dataset) -> None:
    for attack in (FGSM(), PGD(steps=2)):
        forwards, backwards = (
            table(crossed(dict(order), split, attack, (0.05,))) for order in (models.items(), reversed(models.items()))
        )
        assert forwards == backwards, attack


class _Counting(nn.Module):
    """Counts the passes that record a gradient, and the others."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.recorded, self.plain = inner, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.recorded += x.requires_grad
        self.plain += not x.requires_grad and len(x) > 1  # a single image asks for the memory layout
        logits: Tensor = self.inner(x)
        return logits


@dataclass(frozen=True)
class _Watched:
    """An attack that notes the model and the images that it is called with."""

    calls: list[tuple[nn.Module, int, float]]

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        self.calls.append((model, len(x), threat.eps))
        return x.clone()


def test_one_crafting_per_source_and_one_gradient_for_all_eps(models: dict[str, nn.Module], split: Dataset) -> None:
    counted = {name: _Counting(model) for name, model in models.items()}
    classifiers = {name: prepare(model, split, precision="exact") for name, model in counted.items()}
    before = [model.plain for model in counted.values()]
    threats = [Threat("linf", eps) for eps in EPSILONS]
    for source in classifiers.values():
        measure_transfer(source, list(classifiers.values()), split, FGSM(), threats, Settings(batch_size=100))
    assert [model.recorded for model in counted.values()] == [3, 3, 3]  # three batches, however many eps and targets
    passes = [model.plain - plain for model, plain in zip(counted.values(), before, strict=True)]
    assert passes == [3 * 3 * 3] * 3  # batches × eps × sources
    calls: list[tuple[nn.Module, int, float]] = []
    rows = crossed(counted, split, _Watched(calls), (0.1, 0.2), batch_size=200, precision="exact")
    sizes = [(200, 0.1), (200, 0.2), (100, 0.1), (100, 0.2)]
    assert calls == [(model, *size) for model in counted.values() for size in sizes]
    assert rows[-1].attack == "_watched"


def test_the_attack_is_called_by_its_registry_name(models: dict[str, nn.Module], split: Dataset) -> None:
    one = {"small": models["small"]}
    for attack, name, expected in [
        (MIFGSM(diversity=0.5), None, "difgsm"),
        (PGD(steps=1), None, "pgd"),
        (PGD(steps=1), "mine", "mine"),
    ]:
        assert crossed(one, split, attack, (0.1,), name=name)[-1].attack == expected


def test_nothing_is_left_behind(models: dict[str, nn.Module], split: Dataset) -> None:
    def state() -> list[object]:
        modes = [[m.training for m in model.modules()] for model in models.values()]
        flags = [[(p.requires_grad, p.grad) for p in model.parameters()] for model in models.values()]
        values = [{n: t.tolist() for n, t in model.state_dict().items()} for model in models.values()]
        return [modes, flags, values, torch.get_rng_state().tolist()]

    models["small"].train()  # put back as it was
    before = state()
    told: list[tuple[str, int, int]] = []
    crossed(models, split, PGD(steps=1), (0.1,), batch_size=200, progress=lambda *each: told.append(each))
    assert state() == before
    assert told == [(name, done, 300) for name in models for done in (200, 300)]
    with pytest.raises(InputError, match="outside the threat model"):
        crossed(models, split, NotANumber(), (0.1,))
    assert state() == before


def test_what_does_not_fit_is_refused(models: dict[str, nn.Module], split: Dataset) -> None:
    with pytest.raises(InputError, match="at least one"):
        crossed({}, split, FGSM())
    with pytest.raises(InputError, match="precision 'half'"):
        crossed(models, split, FGSM(), precision="half")
    with pytest.raises(InputError, match="the model knows 9 classes"):
        crossed({"nine": nn.Sequential(nn.Flatten(), nn.Linear(64, 9))}, split, FGSM())
    with pytest.raises(InputError, match="larger than the whole pixel range"):
        crossed(models, split, FGSM(), (8,))


class _Ramp(nn.Module):
    """Three classes, or four: class 1 wins where the mean of the pixels exceeds `bound`."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, x: Tensor) -> Tensor:
        rise = 10 * (x.flatten(1).mean(dim=1) - self.bound)
        return torch.stack([0 * rise, rise, rise - 3, 0 * rise - 3], dim=1)


STOPPING: dict[str, dict[str, int]] = {
    "apgd_ce": {},
    "apgd_dlr": {},
    "apgd_t": {},
    "square": {"queries": 500},
    "fab_t": {"steps": 20},
    "fmn": {"steps": 30},
    "deepfool": {},
    "carlini_wagner": {"steps": 50, "search": 3},
    "autoattack": {"queries": 100},
}


@pytest.mark.parametrize("name", STOPPING)
def test_an_attack_does_not_stop_at_the_boundary_of_its_source(name: str) -> None:
    """The source's boundary is next to the images, the target's at the edge of the ball around them."""
    images = torch.full((16, 1, 4, 4), 128, dtype=torch.uint8)
    images[:, 0, 0, 0] -= torch.arange(16, dtype=torch.uint8)
    data = Dataset.from_tensors(images, torch.zeros(16, dtype=torch.long), ("a", "b", "c", "d"))
    threat = Threat("l2", 0.4) if name == "carlini_wagner" else Threat("linf", 0.1)
    found = transfer({"near": _Ramp(0.503), "far": _Ramp(0.595)}, data, get_attack(name, **STOPPING[name]), [threat])
    right = {(row.model, row.protocol): row.correct for row in found.rows if row.attack != "none"}
    assert right["near", "white-box"] == 0
    assert right["far", "transfer:near/standard"] == 0
