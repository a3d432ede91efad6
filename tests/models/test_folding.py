from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

import inoculate.models.acceleration.fast as module
from inoculate.attacks.bim import BIM
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.registry import get_attack
from inoculate.core.threat import Threat
from inoculate.models.acceleration.fast import fast
from inoculate.models.acceleration.folding import FoldedCopies, fold_batchnorm
from inoculate.models.build import build_model


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def lived_in(model: nn.Module, channels: int, size: int) -> nn.Module:
    """BatchNorm statistics, weights and biases of its own, so that leaving one out shows."""
    g = torch.Generator().manual_seed(0)
    model.train()
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.weight.uniform_(0.5, 1.5, generator=g)
                m.bias.uniform_(-0.5, 0.5, generator=g)
        for _ in range(3):
            model(torch.rand(16, channels, size, size, generator=g))
    return model.eval()


def plain_cnn() -> nn.Module:
    layers = [nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5))


def only_28() -> nn.Module:
    """Takes no other size than 28×28, so the fold cannot be checked on the sizes that are tried."""
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, 5)]
    return nn.Sequential(*layers)


class _OtherOrder(nn.Module):
    """Defined as conv, norm; run as norm (of the input), conv."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.norm(x)).relu().mean((2, 3)))


class _Twice(nn.Module):
    """The same convolution is run with and without its BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.norm(self.conv(x)).relu() + self.conv(x)).mean((2, 3)))


def no_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))


def no_conv() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))


NETS = {  # name: (factory, channels, image size, BatchNorms left after folding)
    "resnet18": (lambda: build_model("resnet18", classes=5, channels=3, image_size=32), 3, 32, 0),
    "resnet50": (lambda: build_model("resnet50", classes=5, channels=3, image_size=32), 3, 32, 0),
    "resnet18_small": (lambda: build_model("resnet18", classes=5, channels=1, image_size=32, stem="small"), 1, 32, 0),
    "plain": (plain_cnn, 1, 16, 0),
    "only_28": (only_28, 1, 28, 1),
    "other_order": (_OtherOrder, 3, 8, 1),
    "twice": (_Twice, 3, 8, 1),
    "no_norm": (no_norm, 1, 8, 0),
    "no_conv": (no_conv, 1, 8, 0),
}


@pytest.mark.parametrize("name", NETS)
def test_the_copy_computes_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    factory, channels, size, left = NETS[name]
    monkeypatch.setattr(module, "has_native_bf16", lambda _device: False)
    model = lived_in(factory(), channels, size)
    x = torch.rand(8, channels, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, got = model(x), fast(model)(x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert got.dtype is torch.float32
    assert norms(fast(model)) == left


@pytest.mark.parametrize("name", NETS)
def test_the_original_is_untouched(name: str) -> None:
    factory, channels, size, _ = NETS[name]
    model = lived_in(factory(), channels, size)
    model.train()
    first = next(model.parameters())
    first.requires_grad_(False)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    kinds, rng = [type(m) for m in model.modules()], torch.get_rng_state()
    copied = fast(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert list(before) == list(model.state_dict())
    assert [type(m) for m in model.modules()] == kinds
    assert all(m.training for m in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [p is not first for p in model.parameters()]
    assert torch.equal(torch.get_rng_state(), rng)


def test_a_fold_that_changes_the_outputs_is_thrown_away() -> None:
    for factory in (_OtherOrder, _Twice):
        model = lived_in(factory(), 3, 8)
        assert fold_batchnorm(model) is model
    model = lived_in(plain_cnn(), 1, 16)
    assert fold_batchnorm(model) is not model


def test_an_untrained_norm_without_running_statistics_stays() -> None:
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2, track_running_stats=False)))
    assert norms(fold_batchnorm(model.eval())) == 1


@pytest.mark.parametrize("bf16", [False, True])
def test_crafting_on_the_copy_is_close_to_crafting_on_the_model(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_native_bf16", lambda _device: bf16)
    model = lived_in(plain_cnn(), 1, 16)
    x = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    y = torch.arange(8) % 5
    exact, quick = (BIM(steps=1, step=1.0)(m, x, y, Threat("linf", 0.03)) for m in (model, fast(model)))
    assert quick.dtype is torch.float32
    agree = (exact - quick).abs().lt(1e-6).float().mean()
    assert agree > (0.9 if bf16 else 0.999)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_copy_made_where_gradients_are_off_can_still_craft(mode: type) -> None:
    model = lived_in(plain_cnn(), 1, 16)
    x = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    y = torch.arange(4)
    with mode():
        got = FGSM()(fast(model), x, y, Threat())
    assert torch.equal(got, FGSM()(fast(model), x, y, Threat()))


@pytest.mark.parametrize("name", NETS)
def test_a_twin_follows_a_network_from_its_first_weights_through_training(name: str) -> None:
    factory, channels, size, _ = NETS[name]
    model, twins = factory().train(), FoldedCopies()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    g = torch.Generator().manual_seed(1)
    for _ in range(3):
        x, y = torch.rand(8, channels, size, size, generator=g), torch.randint(5, (8,), generator=g)
        before = {n: t.clone() for n, t in model.state_dict().items()}
        twin = twins.current(model)
        assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
        with torch.no_grad():
            expected, got = model.eval()(x), twin.eval()(x)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(x), y).backward()
        optimizer.step()


def test_a_network_is_its_own_twin_where_folding_would_change_it_later() -> None:
    for factory in (_OtherOrder, _Twice):  # new: its BatchNorm changes nothing yet, so a wrong fold would not show
        model = factory().eval()
        assert fold_batchnorm(model) is not model
        assert FoldedCopies().current(model) is model


def test_a_twin_without_scale_and_shift() -> None:
    model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5, affine=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for _ in range(3):
        model(torch.rand(4, 1, 8, 8))
    twin, x = FoldedCopies().current(model.eval()), torch.rand(4, 1, 8, 8)
    assert norms(twin) == 0
    torch.testing.assert_close(twin(x), model(x))


SMALL = ["fgsm", "one_step_target", "square", "fab_t", "deepfool", "fmn", "carlini_wagner"]


@pytest.mark.parametrize("name", SMALL)
def test_attacks_that_live_on_small_differences_use_full_precision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 Square left 131 of 144 MNIST images where it leaves 121, and FAB 102 where it leaves 99.

    FGSM left 23.8 % of 512 synthetic images where it leaves 23.0 %.
    """
    monkeypatch.setattr(module, "has_native_bf16", lambda _device: True)
    model = build_model("small_cnn", classes=10, image_size=16, channels=1)
    x, y = torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 10
    quick, exact = fast(model), copy.deepcopy(model).eval()
    threat = Threat("l2", 0.3)
    options = {"queries": 80} if name == "square" else {"steps": 8} if SMALL.index(name) > 1 else {}
    attack = get_attack(name, **options)
    found = [attack(net, x, y, threat, generator=torch.Generator().manual_seed(1)) for net in (quick, exact)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)
    assert quick.dtype is torch.bfloat16  # and it is what it was


def test_full_precision_ends_with_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_native_bf16", lambda _device: True)
    quick = fast(plain_cnn())
    with pytest.raises(ZeroDivisionError), module.full_precision(quick) as full:
        _ = 1 / (full.dtype is not None)
    assert quick.dtype is torch.bfloat16
