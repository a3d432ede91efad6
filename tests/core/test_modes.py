from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

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


def test_every_flag_is_put_back() -> None:
    net = mixed()
    before = flags(net)
    assert len(set(before[0])) == len(set(before[1])) == 2
    with frozen(net) as inference_context:
        assert inference_context is net
        assert flags(net) == ([False] * 6, [False] * 4)
    assert flags(net) == before
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))


def test_every_flag_is_put_back_after_an_exception() -> None:
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
def test_autograd_records_inside_whatever_the_caller_switched_off(mode: type) -> None:
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


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has only the older switches")
@pytest.mark.parametrize("how", ["as it comes", "tf32 everywhere", "ieee", "high", "older"])
def test_fp32_is_not_rounded_to_tf32_inside(how: str) -> None:
    """Whichever of torch's switches the user has touched; in a process of its own, as they cannot all be put back."""
    code = f"""
import torch
from torch import nn
from inoculate.core.modes import frozen
how, backends = {how!r}, torch.backends
if how == "tf32 everywhere": backends.fp32_precision = "tf32"
if how == "ieee": backends.cudnn.conv.fp32_precision = "ieee"
if how == "high": torch.set_float32_matmul_precision("high")
if how == "older": backends.cudnn.allow_tf32 = False
newer = how in ("tf32 everywhere", "ieee")
def read():
    if newer:
        return [each.fp32_precision for each in (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)]
    return backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
before = read()
with frozen(nn.Linear(2, 2)), frozen(nn.Linear(2, 2)):
    assert read() == (["ieee"] * 3 if newer else (False, False)), read()
assert read() == before, (before, read())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
