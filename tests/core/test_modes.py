"""`frozen`: eval mode and fixed parameters for the time of a block, and everything as it was after."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from inoculate.core.modes import frozen


def mixed() -> nn.Sequential:
    """Train mode outside, one block in eval mode, one parameter frozen, one gradient already there."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.ReLU(), nn.Dropout(0.5)))
    nn.init.constant_(net[0].weight, 0.1)  # positive on positive pixels, so that a gradient passes the ReLU
    net.train()
    net[1].eval()
    net[2][1].eval()
    nn.init.zeros_(net[0].bias).requires_grad_(False)
    net[0].weight.grad = torch.ones_like(net[0].weight)
    return net


def flags(net: nn.Module) -> tuple[list[bool], list[bool]]:
    return [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]


@pytest.mark.smoke
def test_every_flag_is_restored() -> None:
    net = mixed()
    before = flags(net)
    assert len(set(before[0])) == len(set(before[1])) == 2
    with frozen(net) as inside:
        assert inside is net
        assert flags(net) == ([False] * 6, [False] * 4)
    assert flags(net) == before
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))


def test_every_flag_is_restored_after_an_exception() -> None:
    net = mixed()
    before = flags(net)
    with pytest.raises(ZeroDivisionError), frozen(net):
        raise ZeroDivisionError
    assert flags(net) == before
    assert torch.is_grad_enabled()


def test_nesting_restores_the_outer_state_last() -> None:
    net = mixed()
    before = flags(net)
    with frozen(net):
        with frozen(net):
            pass
        assert flags(net) == ([False] * 6, [False] * 4)
    assert flags(net) == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_autograd_records_inside_whatever_the_caller_has_switched_off(mode: type) -> None:
    net = mixed()
    with mode():
        with frozen(net):
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            x = torch.rand(1, 1, 4, 4, requires_grad=True)
            (gradient,) = torch.autograd.grad(net(x).sum(), x)
        assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    assert gradient.abs().sum() > 0
    assert torch.is_grad_enabled()


class Noisy(nn.Module):
    """Its own `train` switches noise on and off, and is called for nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.noisy, self.calls = nn.Linear(2, 2), True, 0

    def train(self, mode: bool = True) -> Noisy:
        self.noisy, self.calls = mode, self.calls + 1
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.noisy


class KeepsNormFixed(nn.Sequential):
    """Its BatchNorm stays in eval mode whatever the rest does."""

    def train(self, mode: bool = True) -> KeepsNormFixed:
        super().train(mode)
        self[0].eval()
        return self


def test_modes_change_through_the_modules_own_train() -> None:
    for net in (Noisy(), nn.Sequential(Noisy())):
        noisy = net if isinstance(net, Noisy) else net[0]
        with frozen(net):
            assert not noisy.noisy
            with frozen(net):
                pass
            assert not noisy.noisy
        assert noisy.noisy
        assert all(m.training for m in net.modules())


def test_module_in_eval_mode_is_left_alone() -> None:
    net = Noisy().eval()
    calls = net.calls
    with frozen(net):
        assert not net.noisy
    assert net.calls == calls


def test_submodule_in_eval_mode_inside_one_in_train_mode() -> None:
    net = nn.Sequential(Noisy().eval(), nn.Dropout())
    before = flags(net)
    with pytest.raises(ZeroDivisionError), frozen(net):
        raise ZeroDivisionError
    assert flags(net) == before
    assert not net[0].noisy


def test_module_that_keeps_a_part_in_eval_mode() -> None:
    fixed = KeepsNormFixed(nn.BatchNorm1d(2), nn.Dropout()).train()
    before = flags(fixed)
    assert before[0] == [True, False, True]
    with frozen(fixed):
        assert flags(fixed)[0] == [False, False, False]
    assert flags(fixed) == before
    fixed[0].train()  # against its own rule
    with frozen(fixed):
        pass
    assert flags(fixed)[0] == [True, True, True]


TF32_SWITCHES = """
import torch
from torch import nn
from inoculate.core.modes import frozen
backends, newer = torch.backends, %r
def read():
    if newer:
        return [each.fp32_precision for each in (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)]
    return backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
def check():
    before = read()
    with frozen(nn.Linear(2, 2)), frozen(nn.Linear(2, 2)):
        assert read() == (["ieee"] * 3 if newer else (False, False)), read()
    assert read() == before, (before, read())
if newer:
    backends.fp32_precision = "tf32"
    check()
    backends.cudnn.conv.fp32_precision = "ieee"
    check()
else:
    check()
    torch.set_float32_matmul_precision("high")
    check()
    backends.cudnn.allow_tf32 = False
    check()
"""


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has only the older switches")
@pytest.mark.parametrize("newer", [False, True])
def test_fp32_is_not_rounded_to_tf32_inside(newer: bool) -> None:
    """Whichever of torch's switches the user has used; in a process of its own, as not all of them can be restored."""
    done = subprocess.run([sys.executable, "-c", TF32_SWITCHES % newer], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
