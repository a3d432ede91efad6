"""TorchScript files as classifiers, and TorchScript modules given as objects."""

from __future__ import annotations

import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_samples import tutorial_images, tutorial_net
from torch import Tensor, nn

from inoculate.attacks.registry import get_attack
from inoculate.core.deadline import OutOfTimeError, with_deadline
from inoculate.core.errors import InputError
from inoculate.core.modes import frozen
from inoculate.core.threat import Threat
from inoculate.models.acceleration.fast import fast, original
from inoculate.models.acceleration.hardware import memory_format_for
from inoculate.models.loading.load import as_module, load_model

Y = torch.arange(6) % 4
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return tutorial_net()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return tutorial_images()


def error(spec: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load_model(str(spec), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


SCRIPTS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "scripted": lambda net, x: torch.jit.script(net),
    "traced": lambda net, x: torch.jit.trace(net, x),
    "frozen": lambda net, x: torch.jit.freeze(torch.jit.script(net)),
    "in train mode": lambda net, x: torch.jit.script(net).train(),
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_file_is_the_model_that_it_was_made_from(kind: str, net: nn.Module, x: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    SCRIPTS[kind](net, x).save(str(path))  # type: ignore[operator]
    net.eval()
    model = load_model(path)
    torch.testing.assert_close(model(x), net(x))
    for attack in (get_attack("fgsm"), get_attack("bim", steps=3), get_attack("pgd", steps=3)):
        for tested in (model, fast(model), as_module(torch.jit.load(str(path)))):
            draws = [torch.Generator().manual_seed(0) for _ in range(2)]
            got, expected = (attack(m, x, Y, Threat(), generator=g) for m, g in zip((tested, net), draws, strict=True))
            torch.testing.assert_close(got, expected)


def test_frozen_context_restores_torchscript(net: nn.Module, x: Tensor, tmp_path: Path) -> None:
    torch.jit.script(net).save(str(tmp_path / "model.ts"))
    for model in (load_model(tmp_path / "model.ts", normalize=((0.5,), (0.5,))), torch.jit.script(net)):
        model.train()
        assert original(fast(model)) is model
        with frozen(model):
            assert not any(m.training for m in model.modules())
            assert not any(p.requires_grad for p in model.parameters())
        assert all(m.training for m in model.modules())
        assert all(p.requires_grad for p in model.parameters())
    net.eval()
    without_flag = torch.jit.freeze(torch.jit.script(net))  # it has no `training` attribute
    for model in (without_flag, as_module(without_flag), nn.Sequential(without_flag)):
        with frozen(model):
            model(x)


def test_deadline_and_half_precision(net: nn.Module, x: Tensor) -> None:
    scripted = torch.jit.script(net)
    model = as_module(scripted)
    with with_deadline(model, time.monotonic() - 1), pytest.raises(OutOfTimeError):
        model(x)
    with with_deadline(scripted, time.monotonic() - 1):  # takes no hooks
        scripted(x)
    half = as_module(torch.jit.script(tutorial_net().to(torch.bfloat16)))
    with frozen(half):
        assert half(x).dtype is torch.bfloat16


def test_memory_format_of_a_network_that_flattens_with_view(net: nn.Module, x: Tensor) -> None:
    for model in (net, torch.jit.script(net)):
        assert memory_format_for(model, x[:1]) is torch.contiguous_format
    assert memory_format_for(nn.Conv2d(3, 4, 3), x[:1]) is torch.channels_last


class Trap:
    """An object whose unpickling leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.write_text, (self.mark, "!"))


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.ts", "model.torchscript"])
@pytest.mark.parametrize("old", [False, True], ids=["zip", "plain"])
def test_pickle_is_refused_and_never_opened(name: str, old: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    if old:
        path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    else:
        torch.save({"net": Trap(tmp_path / "sprung"), "w": torch.zeros(3)}, path)
    line = error(path)
    assert "pickles are never opened" in line
    assert "torch.jit.script" in line
    assert str(path) in line
    assert not (tmp_path / "sprung").exists()


def test_damaged_files(net: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    torch.jit.script(net).save(str(path))
    assert "has its own weights" in error(path, weights=tmp_path / "w.safetensors")
    path.write_bytes(path.read_bytes()[:-3000])
    assert str(path) in error(path)
    path.write_bytes(b"")
    assert "pickle or damaged" in error(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/code/__torch__.py", "nonsense")
    assert "cannot be loaded" in error(path)
