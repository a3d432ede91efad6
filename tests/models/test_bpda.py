"""BPDA: exact outputs with the gradient of an approximation, in every gradient attack and on the fast copy too."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from attack_samples import CASES, for_every, images, linear_net, seeded, small_net
from torch import Tensor, nn

from inoculate.attacks.carlini_wagner import CarliniWagner
from inoculate.attacks.deepfool import DeepFool
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.fmn import FMN
from inoculate.attacks.pgd import PGD
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.models.acceleration.fast import CraftingCopy, fast
from inoculate.models.bpda import BPDA, bypass, identity
from inoculate.models.classifier import prepare

ATTACKS: dict[str, Any] = {
    name: case.attack for name, case in CASES.items() if "linf" in case.norms and not name.startswith("square")
}
ATTACKS |= {
    "fmn": FMN(steps=5),
    "deepfool": DeepFool(steps=5),
    "carlini_wagner": CarliniWagner(steps=20, search=1, constant=10.0, lr=0.1),
}


class Quantise(nn.Module):
    """Levels of an eighth: without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 8).round() / 8


class StraightThrough(nn.Module):
    """The same, with the gradient of the identity, as it is written by hand."""

    def forward(self, x: Tensor) -> Tensor:
        return x + ((x * 8).round() / 8 - x).detach()


def by_numpy(x: Tensor) -> Tensor:
    """The same, where autograd cannot follow, and writing to its input."""
    array = x.numpy()
    array *= 8
    return torch.from_numpy(np.round(array) / 8)


def behind(first: nn.Module) -> nn.Sequential:
    """A network with convolutions, which a fast copy folds, behind a first layer."""
    return nn.Sequential(OrderedDict(quantise=first, network=small_net())).eval()


@for_every(ATTACKS, [lambda: behind(BPDA(Quantise())), lambda: behind(BPDA(by_numpy))])
def test_attacks_see_the_gradient_written_by_hand(name: str, make: Callable[[], nn.Module]) -> None:
    x, y = images(6)
    x, threat = x.double(), Threat("l2", 3.0) if name == "carlini_wagner" else Threat("linf", 0.3)
    found, expected = (
        ATTACKS[name](model.double(), x, y, threat, generator=seeded(1))
        for model in (make(), behind(StraightThrough()))
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert not torch.equal(found, x)


@for_every(ATTACKS)
def test_a_submodule_can_be_bypassed_by_name(name: str) -> None:
    x, y = images(6)
    x, threat = x.double(), Threat("l2", 3.0) if name == "carlini_wagner" else Threat("linf", 0.3)
    model, by_hand = behind(Quantise()).double(), behind(StraightThrough()).double()
    with bypass(model, {"quantise": identity}):
        found = ATTACKS[name](model, x, y, threat, generator=seeded(1))
    torch.testing.assert_close(found, ATTACKS[name](by_hand, x, y, threat, generator=seeded(1)), rtol=0, atol=1e-9)


def test_outputs_are_exact_and_gradients_those_of_the_approximation() -> None:
    x = torch.linspace(0, 1, 7, requires_grad=True)
    layer = BPDA(torch.round, lambda z: z**2)
    assert torch.equal(layer(x), x.detach().round())
    (gradient,) = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(gradient, 2 * x.detach())
    (second,) = torch.autograd.grad(torch.autograd.grad(layer(x).sum(), x, create_graph=True)[0].sum(), x)
    torch.testing.assert_close(second, torch.full_like(x, 2))
    with torch.no_grad():
        assert torch.equal(layer(x), x.round())


def test_the_model_is_put_back_even_after_an_error() -> None:
    model = nn.Sequential(OrderedDict(outer=nn.Sequential(Quantise(), nn.ReLU()), head=nn.Flatten())).train()
    model.outer[0].eval()
    before = [(name, module, module.training) for name, module in model.named_modules()]

    def fail() -> None:
        with bypass(model, {"outer.0": identity, "outer": nn.Tanh()}):
            assert isinstance(model.outer, BPDA)
            assert [m.training for m in model.modules() if isinstance(m, Quantise)] == [False]
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert [(name, module, module.training) for name, module in model.named_modules()] == before


@pytest.mark.parametrize("bf16", [False, True])
def test_a_fast_copy_has_the_same_gradient(bf16: bool) -> None:
    """Made before, inside or left behind: it follows its original. The quantised network alone has no gradient."""
    model, by_hand, (x, y) = behind(Quantise()), behind(StraightThrough()), images(32)
    earlier, threat = fast(model, bf16=bf16), Threat("linf", 0.1)
    earlier(x)
    expected = FGSM()(by_hand, x, y, threat)
    with bypass(model, {"quantise": identity}):
        inside = fast(model, bf16=bf16)
        for copied in (inside, earlier):
            assert isinstance(copied, CraftingCopy)
            assert (FGSM()(copied, x, y, threat) - expected).abs().lt(1e-6).float().mean() > 0.99
    assert torch.equal(FGSM()(inside, x, y, threat), FGSM()(model, x, y, threat))
    assert torch.equal(FGSM()(model, x, y, threat), x)


def test_a_convolution_and_its_norm_are_bypassed_on_the_copy_too() -> None:
    """Convolution and BatchNorm would be folded into one, and the approximation of either with them lost."""
    x, y = images(16)
    for name in ("0", "1", "2"):
        model = small_net()
        with bypass(model, {name: lambda z: 0.1 * torch.sin(5 * z).mean(1, keepdim=True).expand(-1, 8, -1, -1)}):
            exact, copied = (FGSM()(each, x, y, Threat("linf", 0.1)) for each in (model, fast(model)))
            assert isinstance(prepare(model, Dataset.from_tensors((x * 255).byte(), y)).crafting, CraftingCopy)
        assert (exact - copied).abs().lt(1e-6).float().mean() > 0.99
        assert not torch.equal(exact, FGSM()(model, x, y, Threat("linf", 0.1)))


def test_an_evaluation_is_adapted_to_a_layer() -> None:
    model = behind(Quantise())
    pixels = torch.randint(256, (48, 3, 8, 8), generator=seeded(5), dtype=torch.uint8)
    data = Dataset.from_tensors(pixels, model(pixels / 255).argmax(1), classes=tuple("abcd"))
    quick, threats = EvaluationOptions(checks=False), [Threat("linf", 0.2)]
    plain = evaluate(model, data, {"pgd": PGD(10)}, threats, options=quick)
    with bypass(model, {"quantise": identity}):
        adapted = evaluate(model, data, {"pgd": PGD(10)}, threats, options=quick)
    assert adapted[0].accuracy == plain[0].accuracy == 1
    assert plain[1].accuracy > 0.5
    assert adapted[1].accuracy < 0.1


def compiled_in_place() -> nn.Module:
    model = nn.Sequential(nn.ReLU())
    model._compiled_call_impl = model.forward  # what `model.compile()` sets, without its time
    return model


@for_every(
    [
        (lambda: bypass(behind(Quantise()), {"quantize": identity}), "did you mean 'quantise'"),
        (lambda: bypass(behind(Quantise()), {"": identity}), "no submodule ''"),
        (lambda: bypass(torch.jit.script(nn.Sequential(nn.ReLU())), {"0": identity}), "TorchScript"),
        (lambda: bypass(compiled_in_place(), {"0": identity}), "compiled"),
        (lambda: bypass(behind(Quantise()), {"quantise": None}), "backward of BPDA is None"),  # type: ignore[dict-item]
    ]
)
def test_what_cannot_be_bypassed_is_refused_in_one_line(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught, make():
        pass
    assert "\n" not in str(caught.value)


@for_every(
    [
        (lambda x: x, lambda x: x.mean(1), "same shape"),
        (lambda x: x.round().int(), identity, "floats"),
    ]
)
def test_an_approximation_of_another_shape_is_refused(forward: Any, backward: Any, words: str) -> None:
    net = nn.Sequential(BPDA(forward, backward), linear_net([[1.0] * 192, [0.0] * 192]))
    x, y = images(2, classes=2)
    with pytest.raises(InputError, match=words):
        FGSM()(net, x, y, Threat())
