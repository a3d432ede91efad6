"""Attacks of foolbox, torchattacks and ART called as ours."""

from __future__ import annotations

import importlib
import pickle
import random
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from attack_samples import RADII, for_every, images, seeded, small_net
from torch import Tensor, nn

from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.interop.torchattacks import TorchattacksAttack
from inoculate.attacks.registry import get_attack
from inoculate.attacks.sweep import sweep
from inoculate.core.errors import InputError
from inoculate.core.extras import is_installed
from inoculate.core.threat import Norm, Threat, distance
from inoculate.data.dataset import Dataset
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.models.acceleration.fast import fast

ROOTS = {"foolbox": "foolbox", "torchattacks": "torchattacks", "art": "art.attacks.evasion"}


@dataclass(frozen=True)
class Call:
    """Another library's attack and a threat that it fits."""

    name: str
    norm: Norm = "linf"
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, eps: float | None = None, seed: int = 9) -> Tensor:
        threat = Threat(self.norm, RADII[self.norm] if eps is None else eps)
        return get_attack(self.name, **self.options)(model, x, y, threat, generator=seeded(seed))


FIXED = [
    Call("foolbox:FGSM"),
    Call("foolbox:LinfBasicIterativeAttack", options={"steps": 3}),
    Call("foolbox:PGD", "l1", {"steps": 3, "random_start": False}),
    Call("foolbox:DDNAttack", "l2", {"steps": 3}),
    Call("torchattacks:FGSM"),
    Call("torchattacks:MIFGSM", options={"steps": 3}),
    Call("torchattacks:CW", "l2", {"steps": 3}),
    Call("art:FastGradientMethod", "l2"),
    Call("art:BasicIterativeMethod", options={"max_iter": 3}),
    Call("art:DeepFool", "l2", {"max_iter": 3}),
]
DRAWN = [  # from torch's, numpy's and Python's global generators
    Call("foolbox:PGD", options={"steps": 2}),
    Call("torchattacks:PGD", options={"steps": 2}),
    Call("torchattacks:PGDL2", "l2", {"steps": 2}),
    Call("art:ProjectedGradientDescent", "l2", {"max_iter": 2, "num_random_init": 1}),
    Call("art:SquareAttack", options={"max_iter": 3}),
]


def here(name: str) -> bool:
    """Whether the library of `library:Name` is installed."""
    return is_installed(name.partition(":")[0])


CALLS = [call for call in FIXED + DRAWN if here(call.name)]


def state(model: nn.Module) -> list[Any]:
    """Of the model and of all global generators."""
    flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    grads = [None if p.grad is None else p.grad.tolist() for p in model.parameters()]
    generators = torch.get_rng_state().tolist(), pickle.dumps(np.random.get_state()), random.getstate()
    return [*flags, grads, {name: t.tolist() for name, t in model.state_dict().items()}, *generators]


@for_every(CALLS)
def test_ball_range_shape_and_type(call: Call) -> None:
    model, (x, y) = small_net(), images()
    for eps in (0.02, 0.9):
        x_adv = call(model, x, y, eps)
        assert (x_adv.shape, x_adv.dtype, x_adv.requires_grad) == (x.shape, x.dtype, False)
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
        assert distance(x_adv, x, call.norm).max() <= eps * (1 + 1e-5)
    assert torch.equal(call(model, x, y, 0.0), x)
    assert call(model, x[:0], y[:0]).shape == x[:0].shape


@for_every(CALLS)
def test_the_generator_decides(call: Call) -> None:
    model, (x, y) = small_net(), images()
    torch.manual_seed(1)
    first = call(model, x, y)
    torch.manual_seed(2)
    assert torch.equal(call(model, x, y), first)
    assert torch.equal(call(model, x, y, seed=10), first) == (call in FIXED)


@for_every(CALLS)
def test_the_model_is_left_as_it_was(call: Call) -> None:
    model, (x, y) = small_net().train(), images()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    before = state(model)
    x_adv = call(model, x, y)
    assert state(model) == before
    with torch.inference_mode():
        assert torch.equal(call(model, x, y), x_adv)
    assert torch.equal(call(model.eval(), x, y), x_adv)


class _Breaks(nn.Module):
    """Draws from every global generator, and fails once it has been called a few times."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls = small_net().train(), 0

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(3), np.random.rand(3), random.random()
        self.calls += 1
        if self.calls > 2:
            raise RuntimeError("broken on purpose")
        return self.net(x)


@for_every([call for call in (DRAWN[0], DRAWN[1], DRAWN[3]) if call in CALLS])
def test_an_exception_leaves_no_trace_either(call: Call) -> None:
    model, (x, y) = _Breaks(), images()
    model.net[0].weight.grad = torch.ones_like(model.net[0].weight)
    before = state(model)
    with pytest.raises(RuntimeError, match="on purpose"):
        call(model, x, y)
    assert state(model) == before


def theirs(library: str, model: nn.Module, x: Tensor, y: Tensor, eps: float, norm: Norm) -> dict[str, Any]:
    """The same attacks called without our wrappers: name -> images."""
    peer = importlib.import_module(ROOTS[library])
    if library == "foolbox":
        attack = peer.attacks.L2PGD if norm == "l2" else peer.attacks.LinfPGD
        wrapped = peer.PyTorchModel(model, bounds=(0, 1), device="cpu")
        return {
            "FGM" if norm == "l2" else "FGSM": (peer.attacks.FGM if norm == "l2" else peer.attacks.FGSM)()(
                wrapped, x, y, epsilons=eps
            )[1],
            "PGD": attack(steps=4, random_start=False)(wrapped, x, y, epsilons=eps)[1],
        }
    if library == "torchattacks":
        if norm == "l2":
            return {"PGDL2": peer.PGDL2(model, eps=eps, alpha=eps / 5, steps=4, random_start=False)(x, y)}
        return {
            "FGSM": peer.FGSM(model, eps=eps)(x, y),
            "PGD": peer.PGD(model, eps=eps, alpha=eps / 4, steps=4, random_start=False)(x, y),
        }
    estimators = importlib.import_module("art.estimators.classification")
    wrapped = estimators.PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=x.shape[1:], nb_classes=4, clip_values=(0, 1), device_type="cpu"
    )
    order = 2 if norm == "l2" else np.inf
    fgsm = peer.FastGradientMethod(wrapped, norm=order, eps=eps)
    pgd = peer.ProjectedGradientDescent(wrapped, norm=order, eps=eps, eps_step=eps / 3, max_iter=4, verbose=False)
    return {
        attack: torch.from_numpy(made.generate(x.numpy(), y.numpy()))
        for attack, made in [("FastGradientMethod", fgsm), ("ProjectedGradientDescent", pgd)]
    }


@for_every([library for library in ROOTS if is_installed(library)], ["linf", "l2"])
def test_the_same_images_as_the_library_itself(library: str, norm: Norm) -> None:
    """Steps left to their defaults keep the library's own proportion to eps."""
    model, (x, y), eps = small_net().eval(), images(), RADII[norm]
    for name, expected in theirs(library, model, x, y, eps, norm).items():
        options: dict[str, Any] = {"max_iter": 4} if name.startswith("Proj") else {}
        if "PGD" in name:
            options = {"steps": 4, "random_start": False}
        got = get_attack(f"{library}:{name}", **options)(model, x, y, Threat(norm, eps))
        assert (got - expected).abs().max() <= 1e-6
        assert (got - x).abs().max() > 1e-3


@for_every([name for name in ("foolbox:FGSM", "torchattacks:FGSM", "art:FastGradientMethod") if here(name)])
def test_other_ranges(name: str) -> None:
    """Images in [−1, 1]: the library sees [0, 1] and half the eps."""
    model, (x, y) = small_net(), images()
    got = get_attack(name)(model, 2 * x - 1, y, Threat("linf", 0.06, low=-1.0))
    assert torch.allclose(got, FGSM()(model, 2 * x - 1, y, Threat("linf", 0.06, low=-1.0)), atol=1e-6)
    double = get_attack(name)(model.double(), x.double(), y, Threat("linf", 0.03))
    assert double.dtype is torch.float64
    assert torch.allclose(double, FGSM()(model, x.double(), y, Threat("linf", 0.03)), atol=1e-6)


@for_every(CALLS)
def test_channels_last_images_and_fast_models(call: Call) -> None:
    """Some libraries `view` the gradient, which a channels-last network does not give them as they like it."""
    x, y = images()
    threat = Threat(call.norm, RADII[call.norm])
    attack = get_attack(call.name, **call.options)
    x_adv = attack(fast(small_net()), x.contiguous(memory_format=torch.channels_last), y, threat, generator=seeded(1))
    assert distance(x_adv, x, call.norm).max() <= threat.eps * (1 + 1e-5)


@for_every([name for name in ("foolbox:PGD", "torchattacks:PGD", "art:ProjectedGradientDescent") if here(name)])
def test_in_sweep_and_evaluate(name: str) -> None:
    model, (x, y) = small_net(), images(32)
    attack = get_attack(name, **({"max_iter": 2} if name.startswith("art") else {"steps": 2}))
    both = dict(sweep(attack, model, x, y, Threat(), (0.01, 0.05), generator=seeded(3)))
    (alone,) = dict(sweep(attack, model, x, y, Threat(), (0.05,), generator=seeded(3))).values()
    assert torch.equal(both[0.05], alone)
    split = Dataset.from_tensors((x * 255).to(torch.uint8), y)
    rows = evaluate(
        model,
        split,
        {name: attack},
        [Threat("linf", 0.0), Threat("linf", 0.1)],
        options=EvaluationOptions(checks=False),
    )
    assert rows[1].correct == rows[0].correct >= rows[2].correct
    assert rows[2].attack == name


def test_images_that_are_not_finite_are_not_counted_as_attacked(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = pytest.importorskip("torchattacks")
    monkeypatch.setattr(peer.FGSM, "forward", lambda _attack, x, _y: torch.full_like(x, torch.nan))
    x, y = images()
    assert torch.equal(get_attack("torchattacks:FGSM")(small_net(), x, y, Threat()), x)


# --- what is refused


@pytest.mark.parametrize("library", ROOTS)
def test_a_library_that_is_missing(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError) as caught:
        get_attack(f"{library}:PGD")
    assert f"pip install 'inoculate[{library}]'" in str(caught.value)
    assert "\n" not in str(caught.value)


UNKNOWN: list[tuple[str, Any, str]] = [
    ("foolbox:LinfPDG", {}, "did you mean 'LinfPGD'"),
    ("torchattacks:pgd", {}, "did you mean 'PGD'"),
    ("art:ProjectedGradient", {}, "did you mean 'ProjectedGradientDescent'"),
    ("torchattacks:PGD", {"step": 3}, "did you mean 'steps'"),
    ("torchattacks:PGD", {"eps": 0.3}, "eps from the threat"),
    ("art:ProjectedGradientDescent", {"targeted": True}, "targeted from the threat"),
    ("cleverhans:PGD", {}, "foolbox:Name"),
]


@for_every([row for row in UNKNOWN if here(row[0]) or row[0].partition(":")[0] not in ROOTS])
def test_unknown_names(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        get_attack(name, **options)
    assert "\n" not in str(caught.value)


MISFITS: list[tuple[str, Any, str]] = [
    ("foolbox:LinfPGD", "l2", "but for linf"),
    ("foolbox:DeepFoolAttack", "l1", "but for linf or l2"),
    ("foolbox:SpatialAttack", "linf", "but for none"),
    ("torchattacks:PGD", "l2", "but for linf"),
    ("torchattacks:PGDL2", "linf", "but for l2"),
    ("torchattacks:OnePixel", "linf", "but for none"),
    ("torchattacks:APGD", "l1", "but for linf or l2"),
    ("art:CarliniL2Method", "linf", "but for l2"),
    ("art:CarliniL0Method", "l1", "but for l0"),
    ("art:BasicIterativeMethod", "l1", "but for linf"),
    ("art:Wasserstein", "linf", "refuses: Norm order"),
]


@for_every([row for row in MISFITS if here(row[0]) or row[0].partition(":")[0] not in ROOTS])
def test_a_norm_that_does_not_fit(name: str, norm: Norm, said: str) -> None:
    x, y = images()
    with pytest.raises(InputError, match=said) as caught:
        get_attack(name)(small_net(), x, y, Threat(norm, 0.5))
    assert "\n" not in str(caught.value)


def test_attacks_of_libraries_are_values() -> None:
    pytest.importorskip("torchattacks")
    attack = get_attack("torchattacks:PGD", steps=3)
    assert attack == TorchattacksAttack("PGD", {"steps": 3}) != get_attack("torchattacks:PGD", steps=4)
    assert isinstance(hash(attack), int)
