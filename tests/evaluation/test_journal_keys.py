"""What a kept result depends on: whatever decides a number, and is hard to see, makes it anew."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attack_samples import small_net
from executor_samples import Alike
from servers import predictions, serving
from torch import Tensor, nn

from inoculate.artifacts import own_code
from inoculate.attacks._minimum_norm import Extended
from inoculate.attacks.base import Ensemble, works_image_by_image
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.interop import foolbox as interop
from inoculate.attacks.interop.foolbox import FoolboxAttack
from inoculate.attacks.pgd import PGD
from inoculate.attacks.rays import RayS
from inoculate.attacks.registry import ATTACKS, get_attack
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation import parcels
from inoculate.evaluation.engine import in_full
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.result import Evaluation
from inoculate.evaluation.transfer import TransferOptions, transfer
from inoculate.models.bpda import BPDA
from inoculate.models.loading.endpoint import Endpoint

THREATS = [Threat("linf", 0.05)]


@pytest.fixture
def data() -> Dataset:
    images = torch.randint(256, (30, 3, 8, 8), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    return Dataset.from_tensors(images, small_net()(images / 255).argmax(dim=1), ["a", "b", "c", "d"])


def measure(model: Any, data: Dataset, store: Path | None, attack: Any = None, **more: Any) -> Evaluation:
    direct = {name: more.pop(name) for name in ("seed", "batch_size") if name in more}
    options = EvaluationOptions(checks=False, precision="exact", store=store, **more)
    return evaluate(model, data, {"attack": attack or FGSM()}, THREATS, options=options, **{"batch_size": 8, **direct})


def found(evaluation: Any) -> list[Any]:
    """Everything found of every image."""
    names = ("right", "predicted", "margin", "distance")
    return [[getattr(each, name).nan_to_num(-9).tolist() for name in names] for each in evaluation.per_image.values()]


def alike(one: list[Any], other: list[Any]) -> bool:
    """Whether an attack found exactly the same, and margins without an attack differ by rounding alone.

    These are measured in batches of whatever is missing, and some processors round differently in other sizes.
    """
    (right, predicted, margin, distance), *attacked = one
    (*facts, others_margin, others_distance), *others = other
    same = attacked == others and facts == [right, predicted] and distance == others_distance
    return bool(same and margin == pytest.approx(others_margin, abs=1e-6))


class Noisy(nn.Module):
    """A random model."""

    def __init__(self, deviation: float = 0.1) -> None:
        super().__init__()
        self.inner, self.deviation = small_net(), deviation

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x + self.deviation * torch.randn_like(x))
        return out


def scaled(by: float) -> Any:
    net = small_net()
    return lambda x: net(by * x)


class Softened(torch.autograd.Function):
    """Outputs as they come, gradients changed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, by: float) -> Tensor:
        ctx.by = by
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        keep = torch.rand(gradients[0].shape, generator=torch.Generator().manual_seed(0)) < ctx.by
        return gradients[0] * keep, None


class Backward(nn.Module):
    """Networks that differ in their gradients alone."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.inner, self.by = small_net(), by

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(Softened.apply(x, self.by))
        return out


def approximated(backward: Callable[[Tensor], Tensor]) -> nn.Module:
    return nn.Sequential(BPDA(lambda x: (x * 16).round() / 16, backward), small_net())


def forest(shift: float) -> Any:
    """A model of another library, of which nothing but its labels can be seen."""
    weights = np.random.default_rng(0).standard_normal((192, 4))
    weights[:, 1] += shift
    return lambda x: torch.from_numpy((x.reshape(len(x), -1).numpy() @ weights).argmax(axis=1))


MODELS: dict[str, tuple[Callable[[], Any], Callable[[], Any], Any]] = {
    "nearly the same function": (lambda: scaled(1.0), lambda: scaled(0.998), FGSM()),
    "noise of another size": (lambda: Noisy(0.1), lambda: Noisy(0.3), FGSM()),
    "other gradients": (lambda: Backward(1.0), lambda: Backward(0.3), FGSM()),
    "another approximation": (lambda: approximated(lambda x: x), lambda: approximated(torch.square), FGSM()),
    "labels of another function": (lambda: forest(0.0), lambda: forest(0.01), RayS(queries=40)),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_looks_the_same_is_measured_anew(case: str, data: Dataset, tmp_path: Path) -> None:
    first, second, attack = MODELS[case]
    one, other = found(measure(first(), data, None, attack)), found(measure(second(), data, None, attack))
    assert one != other
    assert found(measure(first(), data, tmp_path, attack)) == one
    assert found(measure(second(), data, tmp_path, attack)) == other
    assert found(measure(first(), data, tmp_path, attack)) == one


def test_labels_of_a_function_are_kept(data: Dataset, tmp_path: Path) -> None:
    calls = []

    def counted(x: Tensor) -> Any:
        calls.append(len(x))
        return forest(0.0)(x)

    first = found(measure(counted, data, tmp_path, RayS(queries=40)))
    made = sum(calls)
    assert found(measure(counted, data, tmp_path, RayS(queries=40))) == first
    assert sum(calls) - made < made / 2


@pytest.mark.parametrize("labels", [True, False])
def test_a_service_whose_model_is_another_one_is_measured_anew(labels: bool, data: Dataset, tmp_path: Path) -> None:
    def served(by: float) -> Callable[[Tensor], Tensor]:
        net = scaled(by)
        return (lambda x: net(x).argmax(dim=1)) if labels else net

    current, attack = [served(1.0)], RayS(queries=20)
    with serving(predictions(lambda x: current[0](x))) as (address, sizes):
        service, kept = Endpoint(address), [found(measure(Endpoint(address), data, tmp_path, attack))]
        made = sum(sizes)
        assert found(measure(service, data, tmp_path, attack)) == kept[0]
        assert sum(sizes) - made < made / 2, "nothing but the questions that tell models apart"
        current[0] = served(0.9)
        assert found(measure(service, data, tmp_path, attack)) == found(measure(service, data, None, attack)) != kept[0]


def test_the_seed_of_a_random_model_decides_its_clean_accuracy(data: Dataset, tmp_path: Path) -> None:
    for seed in (0, 1):
        expected = found(measure(Noisy(), data, None, seed=seed))
        assert found(measure(Noisy(), data, tmp_path, seed=seed)) == expected


def test_a_random_model_that_draws_elsewhere_is_measured_anew(data: Dataset, tmp_path: Path) -> None:
    net, seen, draw = small_net(), list[int](), np.random.default_rng(0)

    def noisy(x: Tensor) -> Any:
        seen.append(len(x))
        return net(x + torch.from_numpy(draw.normal(scale=0.1, size=x.shape)).float())

    for _ in range(2):
        before = sum(seen)
        measure(noisy, data, tmp_path)
        assert sum(seen) - before > 40 * len(data), "judged over 20 passes, clean and attacked"
    assert not list(tmp_path.rglob("*.npz"))


@dataclass(frozen=True)
class Together:
    """An attack whose random numbers depend on an image's place in its batch, half of them on the global state."""

    def __call__(self, model: Any, x: Tensor, y: Tensor, threat: Threat, *, generator: Any = None) -> Tensor:
        noise = torch.rand(x.shape, generator=generator) + torch.rand(x.shape) - 1
        return (x + threat.eps * noise).clamp(threat.low, threat.high)


def test_every_attack_of_the_package_works_image_by_image() -> None:
    for name in ATTACKS:
        attack = get_attack(name)
        members = attack.members(3 if "binary" in name else 10).values() if isinstance(attack, Ensemble) else [attack]
        assert all(works_image_by_image(in_full(each)) for each in [attack, *members]), name
    assert not works_image_by_image(Together())
    assert not works_image_by_image(Extended(Together())), "an attack that is made of one that does not"  # type: ignore[arg-type]


@pytest.mark.parametrize(("model", "attack"), [(Noisy, PGD(steps=2, eot=2)), (small_net, Together())])
def test_what_depends_on_the_batch_is_what_an_uninterrupted_run_finds(
    model: Any, attack: Any, data: Dataset, tmp_path: Path
) -> None:
    expected = found(measure(model(), data, None, attack))
    measure(model(), data.subset(range(12)), tmp_path, attack)
    assert alike(found(measure(model(), data, tmp_path, attack)), expected)
    sevens = found(measure(model(), data, None, attack, batch_size=7))
    assert alike(found(measure(model(), data, tmp_path, attack, batch_size=7)), sevens)
    assert alike(found(measure(model(), data, None, attack, executor=Alike())), expected)


def test_a_random_model_is_transferred_to_by_the_seed_alone(data: Dataset, tmp_path: Path) -> None:
    def run(seed: int, store: Path | None, executor: Any = "local") -> list[Any]:
        options = TransferOptions("exact", store=store, executor=executor)
        models = {"a": small_net(seed=1), "b": Noisy()}
        return found(transfer(models, data, FGSM(), THREATS, batch_size=8, seed=seed, options=options))

    expected = [run(seed, None) for seed in (0, 1)]
    torch.manual_seed(77)
    assert [run(seed, tmp_path) for seed in (0, 1)] == expected
    assert run(0, None, Alike()) == expected[0]


ATTACK = """
from dataclasses import dataclass
{imports}
class Base:
    def __call__(self, model, x, y, threat, *, generator=None):
        return (x + move(threat) * {inline}).clamp(threat.low, threat.high)

@dataclass(frozen=True)
class Own(Base):
    pass
"""
HELPER = "FACTOR = {factor}\ndef move(threat):\n    return (lambda eps: FACTOR * eps * {inside})(threat.eps)\n"
SEPARATE = "import own_helper\ndef move(threat): return own_helper.move(threat)"
USUAL = {"inline": 1.0, "factor": 0.5, "inside": 1.0}


def own_attack(folder: Path, monkeypatch: pytest.MonkeyPatch, apart: bool = True) -> Callable[..., Any]:
    """Writes and loads an attack of one's own in one file or two, of the numbers that it is given."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(values: dict[str, float]) -> Any:
        helper = HELPER.format(**values)
        (folder / "own_helper.py").write_text(helper)
        (folder / "own_attack.py").write_text(ATTACK.format(imports=SEPARATE if apart else helper, **values))
        for name in ("own_attack", "own_helper"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module("own_attack").Own()

    return write


@pytest.mark.parametrize("apart", [False, True], ids=["in one file", "in two files"])
@pytest.mark.parametrize("changed", USUAL)
def test_the_code_that_an_attack_of_ones_own_calls_is_part_of_it(
    changed: str, apart: bool, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack, store = own_attack(tmp_path, monkeypatch, apart), tmp_path / "store"
    first = found(measure(small_net(), data, store, attack(USUAL)))
    other = attack({**USUAL, changed: 0.9})
    assert found(measure(small_net(), data, store, other)) == found(measure(small_net(), data, None, other))
    files = set(store.rglob("*.npz"))
    assert found(measure(small_net(), data, store, attack(USUAL))) == first
    assert set(store.rglob("*.npz")) == files, "the same code is the same attack"


def test_an_attack_that_was_edited_and_not_loaded_again_is_neither_version(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = own_attack(tmp_path, monkeypatch)
    old, store = write(USUAL), tmp_path / "store"
    other = {**USUAL, "factor": 0.9}
    for text, name in (
        (ATTACK.format(imports=SEPARATE, **other), "own_attack"),
        (HELPER.format(**other), "own_helper"),
    ):
        (tmp_path / f"{name}.py").write_text(text)
    measure(small_net(), data, store, old)
    new = write(other)
    assert found(measure(small_net(), data, store, new)) == found(measure(small_net(), data, None, new))


def test_a_worker_with_another_attack_or_package_is_refused(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = own_attack(tmp_path, monkeypatch)(USUAL)
    expected = found(measure(small_net(), data, None, attack))
    assert found(measure(small_net(), data, None, attack, executor=Alike())) == expected

    class Elsewhere(Alike):
        def run(self, graph: Any) -> Any:
            if self.sizes:  # the clean images come first
                monkeypatch.setattr(sys.modules["own_helper"], "FACTOR", 0.7)
            yield from super().run(graph)

    with pytest.raises(InputError, match=r"a worker has another version of the attack .*Own"):
        measure(small_net(), data, None, attack, executor=Elsewhere())

    class Older(Alike):
        def run(self, graph: Any) -> Any:
            monkeypatch.setattr(parcels, "package_digest", lambda: "of another version")
            yield from super().run(graph)

    with pytest.raises(InputError, match="a worker has another version of inoculate"):
        measure(small_net(), data, None, FGSM(), executor=Older())


@pytest.mark.parametrize("library", ["torch", "foolbox"])
def test_another_version_of_a_library_is_measured_anew(
    library: str, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack: Any = FGSM()
    if library == "foolbox":
        pytest.importorskip("foolbox", reason="foolbox is not installed")
        attack = FoolboxAttack("PGD")

    def folders() -> set[str]:
        measure(small_net(), data, tmp_path, attack)
        return {path.name for path in (tmp_path / "measured").iterdir()}

    before = folders()
    assert folders() == before
    for module in (own_code, interop):
        monkeypatch.setattr(module, "library_version", lambda name: f"{name} 99" if name == library else name)
    assert len(folders()) > len(before)


def test_a_mask_or_target_of_another_image_is_not_taken_over(data: Dataset, tmp_path: Path) -> None:
    masks = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5
    for mask in (masks, masks.flip(0)):
        threats = [replace(THREATS[0], mask=mask)]
        options = [EvaluationOptions(checks=False, store=store) for store in (None, tmp_path)]
        one, other = (evaluate(small_net(), data, ["fgsm"], threats, options=each) for each in options)
        assert found(one) == found(other)
