"""What a model may do in its forward pass without changing anything outside."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from inoculate.attacks.registry import get_attack
from inoculate.core.calls import Behaviour, behaviour, pure_calls
from inoculate.core.modes import frozen
from inoculate.core.outputs import logits_of
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.models.acceleration.fast import fast
from inoculate.models.classifier import prepare

Y = torch.arange(6) % 4


@pytest.fixture(scope="module")
def body() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)).eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Normalizes(nn.Module):
    """Normalises its input; `in_place` in the caller's tensor."""

    def __init__(self, body: nn.Module, in_place: bool) -> None:
        super().__init__()
        self.body, self.in_place = copy.deepcopy(body), in_place

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.sub_(0.1).div_(0.9) if self.in_place else x.sub(0.1).div(0.9))


class Rewrites(nn.Module):
    """Writes to its input the values that are there already."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = copy.deepcopy(body)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.mul_(1.0))


class Returns(nn.Module):
    """Passes its logits and its input to `pack`, and returns the result."""

    def __init__(self, body: nn.Module, pack: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.body, self.pack = copy.deepcopy(body), pack

    def forward(self, x: Tensor) -> Any:
        return self.pack(self.body(x), x)


class WithAuxiliary(NamedTuple):
    logits: Tensor
    aux_logits: Tensor


PACKED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "dict": lambda logits, x: {"features": x, "logits": logits},
    "tuple": lambda logits, x: (logits, x),
    "list": lambda logits, x: [logits, x],
    "object": lambda logits, x: SimpleNamespace(loss=None, logits=logits),
    "named tuple": lambda logits, x: WithAuxiliary(aux_logits=x, logits=logits),
}
ATTACKS = {"fgsm": {}, "pgd": {"steps": 3}, "square": {"queries": 10}, "fab_t": {"steps": 3}}


def attacked(model: nn.Module, x: Tensor) -> list[Tensor]:
    return [
        get_attack(name, **options)(model, x, Y, Threat(eps=0.1), generator=torch.Generator().manual_seed(0))
        for name, options in ATTACKS.items()
    ]


def assert_same(model: nn.Module, reference: nn.Module, x: Tensor) -> None:
    """Under attack, on its fast copy and prepared, a model equals its reference; the images stay as they were."""
    given, expected = x.clone(), attacked(reference, x)
    for tested in (model, fast(model)):
        for got, want in zip(attacked(tested, given), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
        assert torch.equal(given, x)
    data = Dataset.from_tensors((x * 255).to(torch.uint8), Y)
    for precision in ("fast", "exact"):
        classifiers = [prepare(net, data, precision=precision) for net in (model, reference)]  # type: ignore[arg-type]
        predictions = []
        for classifier in classifiers:
            with classifier.ready():
                images, labels = classifier.load(data, torch.arange(6))
                before = images.clone()
                predictions.append(classifier.predict(images, labels))
                assert torch.equal(images, before)
        for got, want in zip(*predictions, strict=True):
            assert torch.equal(got, want)


@pytest.mark.smoke
def test_model_that_edits_its_input(body: nn.Module, x: Tensor) -> None:
    model, reference = Normalizes(body, in_place=True), Normalizes(body, in_place=False)
    assert_same(model, reference, x)
    assert behaviour(model) == Behaviour(edits_input=True, returns=Tensor)
    assert behaviour(reference) == Behaviour(edits_input=False, returns=Tensor)


def test_model_that_writes_equal_values_to_its_input(body: nn.Module, x: Tensor) -> None:
    model = Rewrites(body)
    assert_same(model, body, x)
    assert behaviour(model).edits_input


@pytest.mark.parametrize("kind", PACKED)
def test_model_that_returns_more_than_logits(kind: str, body: nn.Module, x: Tensor) -> None:
    model = Returns(body, PACKED[kind])
    assert_same(model, body, x)
    assert behaviour(model).returns is type(PACKED[kind](x, x))
    assert not isinstance(model(x), Tensor)  # outside it is as it was


def test_other_outputs_are_returned_as_they_are() -> None:
    for output in (None, "logits", {}, {"scores": torch.ones(1)}, (), []):
        assert logits_of(output) is output


def test_plain_model_is_called_directly_after_its_first_pass(body: nn.Module, x: Tensor) -> None:
    seen: list[Tensor] = []

    class Sees(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return body(x)

    model = Sees()
    for _ in range(2):
        with frozen(model), frozen(model):
            assert torch.equal(model(x), body(x))
            model(x)
    assert [each is x for each in seen] == [False, True, True, True]
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_hooks_end_with_the_block_and_with_an_exception(body: nn.Module, x: Tensor) -> None:
    model = Normalizes(body, in_place=True)
    with pytest.raises(ZeroDivisionError), pure_calls(model):
        _ = 1 / 0
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    with pure_calls(model), pytest.raises(RuntimeError):
        model(x[:, :1])
    assert behaviour(model) == Behaviour(False, Tensor)  # a pass that fails says nothing
    with pure_calls(model):
        model(x)
    assert behaviour(model).edits_input


def test_gradients_pass_through_the_copy(body: nn.Module, x: Tensor) -> None:
    model, reference = Normalizes(body, in_place=True), Normalizes(body, in_place=False)
    gradients = []
    for net in (model, reference):
        images = x.clone().requires_grad_()
        with frozen(net):
            gradients.append(torch.autograd.grad(net(images).square().sum(), images)[0])
    assert torch.equal(*gradients)
