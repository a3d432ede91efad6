"""What only a GPU can show (`make test-gpu`)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digits_samples import every_digit
from torch import nn

from inoculate import AutoAttack, EvaluationOptions, Threat, build_model, evaluate, fast
from inoculate.attacks import success
from inoculate.attacks.registry import get_attack
from inoculate.core.rng import generator
from inoculate.training.methods.registry import get_method
from inoculate.training.plan import TrainingPlan
from inoculate.training.recipe import Recipe
from inoculate.training.samples import TrainingSet
from inoculate.training.trainer import fit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return build_model("resnet18", classes=10, image_size=32, stem="small").cuda().eval()


def waits(work: Callable[[], object]) -> int:
    """How many times the host waited for the GPU."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in seen)


@pytest.mark.parametrize(
    ("name", "short", "long"),
    [
        ("pgd", {"steps": 5}, {"steps": 25}),
        ("bim", {"steps": 5}, {"steps": 25}),
        ("mifgsm", {"steps": 5}, {"steps": 25}),
        ("apgd_ce", {"steps": 20}, {"steps": 60}),
        ("apgd_t", {"steps": 20, "targets": 1}, {"steps": 60, "targets": 1}),
        ("square", {"queries": 160}, {"queries": 320}),
    ],
)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_steps_make_the_host_wait_no_more_often(
    name: str, short: dict[str, int], long: dict[str, int], norm: str, network: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Between two checks of success, that is: here there are none, and nothing is adversarial at so small an eps."""
    if name == "square" and norm == "l2":
        pytest.skip("the L2 squares of a query depend on numbers that the host needs")
    x = torch.rand(16, 3, 32, 32, device="cuda")
    y = network(x).argmax(1)
    threat = Threat(norm, 1e-6)  # type: ignore[arg-type]
    checked = (0, short["queries"], long["queries"]) if name == "square" else (0,)  # Square ends at a check alone
    monkeypatch.setattr(success, "should_check_success", lambda number, _: number in checked)
    counts = []
    for options in (short, short, long):
        attack = get_attack(name, **options)
        counts.append(waits(lambda attack=attack: attack(network, x, y, threat, generator=generator(0, "gpu"))))
    assert counts[1] == counts[2] > 0


def test_a_gpu_and_a_processor_find_the_same_accuracy(tmp_path: Path) -> None:
    order = torch.randperm(len(every_digit()), generator=torch.Generator().manual_seed(0))
    train, test = every_digit().subset(order[:1200]), every_digit().subset(order[1200:])
    model = build_model("small_cnn", classes=10, image_size=8, channels=1)
    threat = Threat("linf", 0.1)
    method = get_method("fgsm_rs").begin(threat)
    plan = TrainingPlan(TrainingSet.of(train), test, method, Recipe(200, rounds=2), threat=threat)
    history = fit(model.cuda(), plan, tmp_path)
    assert history[-1]["val_robust"] > 0.3
    options = EvaluationOptions(checks=False)
    there = [row.accuracy for row in evaluate(model, test, [AutoAttack()], [threat], options=options)]
    here = [row.accuracy for row in evaluate(model.cpu(), test, [AutoAttack()], [threat], options=options)]
    assert there == pytest.approx(here, abs=0.011)


def test_a_compiled_training_ends_where_an_ordinary_one_does(tmp_path: Path) -> None:
    """Graphs of kernels read weights where they lie: those that an update moves, folds, averages or puts back."""
    train = every_digit().subset(torch.arange(400))
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()]
    plain = nn.Sequential(*layers, nn.Linear(72, 10)).cuda()  # of any image size, so that its folded copy can be proven
    compiled, threat, before = copy.deepcopy(plain), Threat("linf", 0.1), copy.deepcopy(plain).state_dict()
    choice = get_method("trades", steps=2, step=0.7, awp=0.005, average=0.9)
    recipe = choice.adapt(Recipe(24, rounds=2, batch_size=64, optimizer="sgd", lr=0.05, precision="fp32"))
    losses = []
    for model, wanted in ((plain, False), (compiled, True)):
        folder = tmp_path / str(wanted)
        folder.mkdir()
        how = replace(recipe, compile=wanted)
        history = fit(
            model, TrainingPlan(TrainingSet.of(train), train, choice.begin(threat), how, threat=threat), folder
        )
        losses.append([entry["loss"] for entry in history])
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    for name, tensor in plain.state_dict().items():
        if tensor.is_floating_point():
            moved = (tensor - before[name]).norm()
            assert (compiled.state_dict()[name] - tensor).norm() <= 0.05 * moved + 1e-5, name


def test_the_quick_copy_gives_nearly_the_same_logits(network: nn.Module) -> None:
    x = torch.rand(64, 3, 32, 32, device="cuda")
    with torch.no_grad():
        exact, quick = network(x), fast(network)(x)
    assert quick.dtype is torch.float32
    assert (quick - exact).norm() / exact.norm() < 0.02
