"""Convolutions with a cache equal `nn.Conv2d`, and notice when their weights change."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from inoculate.models.acceleration.cached_convolutions import cache_convolutions
from inoculate.models.build import build_model

IMPLEMENTATIONS = {  # the implementation of each: in channels, kernel, stride, padding, map
    "WholeMapConv": [
        (6, 3, 1, 1, (1, 1)),
        (6, 3, 1, 1, (2, 2)),
        (6, 3, 2, 1, (2, 2)),
        (6, 3, 1, 1, (1, 2)),
        (6, 3, 1, 1, (1, 3)),
        (6, 3, 1, 0, (3, 3)),
        (6, (3, 1), (2, 1), (1, 0), (2, 1)),
        (6, 5, 3, 2, (3, 2)),
        (6, 3, 1, 2, (1, 1)),  # most outputs depend on padding alone
        (3, 7, 2, 3, (2, 2)),
    ],
    "PixelwiseConv": [
        (6, 1, 1, 0, (1, 1)),
        (6, 1, 1, 0, (2, 2)),
        (6, 1, 2, 0, (2, 2)),
        (6, 1, 2, 0, (3, 4)),
        (6, 1, (2, 1), 0, (3, 2)),
    ],
    "StridedConv": [
        (3, 7, 2, 3, (32, 32)),
        (3, 7, 2, 3, (31, 28)),
        (1, 3, 2, 1, (9, 10)),
        (3, 3, 2, 0, (10, 7)),
        (3, 4, 4, 0, (16, 18)),
        (4, 2, 3, 0, (11, 11)),  # pixels between the kernels, which no output depends on
        (2, (3, 5), 2, (0, 2), (8, 9)),
        (3, 5, 3, 2, (13, 9)),
    ],
    "general": [
        (6, 3, 1, 1, (4, 4)),
        (6, 3, 1, 1, (2, 3)),
        (6, 1, 1, 0, (2, 3)),
        (6, 1, 1, 1, (1, 1)),
        (3, 3, 1, 1, (8, 8)),
        (5, 3, 2, 1, (8, 8)),
        (3, 3, (2, 1), 1, (8, 8)),
    ],
}
CASES = [(kind, *case) for kind, cases in IMPLEMENTATIONS.items() for case in cases]


def convolution(*args: object, **options: object) -> nn.Conv2d:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Conv2d(*args, **options).requires_grad_(False)  # type: ignore[arg-type]


def results(conv: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and the gradient in the images of a seeded weighting of it."""
    x = x.clone().requires_grad_()
    y = conv(x)
    weighting = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y.dtype)
    (gradient,) = torch.autograd.grad((y * weighting).sum(), x)
    return y.detach(), gradient


def images(*shape: int, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=memory_format)


def implementation(model: nn.Sequential) -> str:
    """The kind of implementation that its one convolution prepared last."""
    *_, last = model[0].implementations.values()
    return "general" if isinstance(last, partial) else type(last).__name__


@pytest.mark.smoke
def test_output_gradient_and_memory_format_equal_those_of_conv2d() -> None:
    formats = (torch.contiguous_format, torch.channels_last)
    for (kind, channels, kernel, stride, padding, size), memory_format, bias in product(CASES, formats, (True, False)):
        case = f"{kind}: {channels} channels, kernel {kernel}, stride {stride}, padding {padding}, map {size}"
        plain = convolution(channels, 10, kernel, stride=stride, padding=padding, bias=bias)
        cached = cache_convolutions(nn.Sequential(copy.deepcopy(plain)))
        x = images(4, channels, *size, memory_format=memory_format)
        for _ in range(2):  # the second time from the cache
            for got, expected in zip(results(cached, x), results(plain, x), strict=True):
                assert got.shape == expected.shape, case
                tolerance = 1e-5 * max(float(expected.abs().max()), 1e-3)
                torch.testing.assert_close(got, expected, rtol=1e-5, atol=tolerance, msg=lambda m, c=case: f"{c}: {m}")
            if channels > 1 and x[0, 0].numel() > 1:  # else both formats are one
                assert cached(x).is_contiguous(memory_format=memory_format), case
                assert plain(x).is_contiguous(memory_format=memory_format), case
        assert implementation(cached) == kind, case


def test_under_autocast_as_close_to_fp32_as_conv2d() -> None:
    for kind, channels, kernel, stride, padding, size in CASES:
        case = f"{kind}: {channels} channels, kernel {kernel}, stride {stride}, padding {padding}, map {size}"
        plain = convolution(channels, 10, kernel, stride=stride, padding=padding)
        cached = cache_convolutions(nn.Sequential(copy.deepcopy(plain)))
        x = images(4, channels, *size, memory_format=torch.channels_last)
        exact = results(plain, x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got, reference = results(cached, x), results(plain, x)
        for a, b, truth in zip(got, reference, exact, strict=True):
            assert a.dtype is b.dtype, case
            slack = 0.01 * float(truth.abs().max())
            limit = 2 * float((b.float() - truth).abs().max()) + slack
            assert float((a.float() - truth).abs().max()) <= limit, case
        assert results(cached, x)[0].dtype is torch.float32, case


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2, "padding": 1},
        {"dilation": 2, "padding": 2},
        {"padding": "same"},
        {"padding_mode": "reflect", "padding": 1},
        {"padding_mode": "circular", "padding": 1},
    ],
)
def test_other_kinds_use_the_general_routine(options: dict[str, object]) -> None:
    plain = convolution(6, 10, 3, **options)
    cached = cache_convolutions(nn.Sequential(copy.deepcopy(plain)))
    for got, expected in zip(results(cached, images(4, 6, 2, 2)), results(plain, images(4, 6, 2, 2)), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    assert implementation(cached) == "general"


@pytest.mark.parametrize("batch", [(), (0,), (1,)])
def test_image_without_batch_and_empty_batch(batch: tuple[int, ...]) -> None:
    plain = convolution(6, 10, 3, padding=1)
    cached = cache_convolutions(nn.Sequential(copy.deepcopy(plain)))
    x = images(*batch, 6, 2, 2)
    for got, expected in zip(results(cached, x), results(plain, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 2), (1, 1), (2, 9)])
def test_map_smaller_than_the_kernel_is_refused_as_by_conv2d(size: tuple[int, int]) -> None:
    cached = cache_convolutions(nn.Sequential(convolution(6, 10, 3)))
    with pytest.raises(RuntimeError, match="Kernel size"):
        cached(images(4, 6, *size))


def _replaced(conv: nn.Conv2d) -> None:
    conv.weight.data = conv.weight.data * 2


def _in_place(conv: nn.Conv2d) -> None:
    with torch.no_grad():
        conv.weight.mul_(2)


def _out(conv: nn.Conv2d) -> None:
    with torch.no_grad():
        torch.mul(conv.weight.clone(), 2, out=conv.weight)


def _bias(conv: nn.Conv2d) -> None:
    with torch.no_grad():
        assert conv.bias is not None
        conv.bias.add_(1)


def _loaded(conv: nn.Conv2d) -> None:
    conv.load_state_dict({"weight": torch.ones_like(conv.weight), "bias": torch.zeros(10)})


@pytest.mark.parametrize("change", [_replaced, _in_place, _out, _bias, _loaded])
@pytest.mark.parametrize("size", [(2, 2), (8, 8)])
@pytest.mark.parametrize("autocast", [False, True])
def test_changed_weights_are_noticed(
    change: Callable[[nn.Conv2d], None], size: tuple[int, int], autocast: bool
) -> None:
    plain = convolution(3, 10, 3, stride=2, padding=1)
    cached = cache_convolutions(nn.Sequential(copy.deepcopy(plain)))
    x = images(4, 3, *size)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        before = cached(x)
        change(plain)
        change(cached[0])
        got = cached(x)
        torch.testing.assert_close(got, plain(x), rtol=2e-2 if autocast else 1e-5, atol=2e-2 if autocast else 1e-5)
    assert not torch.equal(got, before)


def test_prepared_under_inference_mode_and_used_for_gradients() -> None:
    cached = cache_convolutions(nn.Sequential(convolution(3, 4, 3, stride=2, padding=1)))
    x = images(2, 3, 2, 2)
    with torch.inference_mode():
        cached(x)
    assert float(results(cached, x)[1].abs().sum()) > 0


def test_kernel_in_training_gets_its_gradient() -> None:
    plain = convolution(3, 4, 3, stride=2, padding=1)
    cached = cache_convolutions(nn.Sequential(copy.deepcopy(plain)))
    x = images(2, 3, 2, 2)
    cached(x)
    for conv in (plain, cached):
        conv.requires_grad_()
        conv(x).square().sum().backward()
    torch.testing.assert_close(cached[0].weight.grad, plain.weight.grad)


def test_weights_at_a_reused_address_are_not_mistaken_for_the_old_ones() -> None:
    plain = convolution(3, 4, 3, stride=2, padding=1)
    cached = cache_convolutions(nn.Sequential(copy.deepcopy(plain)))[0]
    x, g = images(2, 3, 2, 2), torch.Generator().manual_seed(0)
    for _ in range(50):
        weight = torch.randn(plain.weight.shape, generator=g)
        got, expected = (torch.func.functional_call(conv, {"weight": weight}, (x,)) for conv in (cached, plain))
        del weight
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_map_sizes_share_one_kernel() -> None:
    cached = cache_convolutions(nn.Sequential(convolution(8, 8, 3, padding=1)))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for size in range(4, 20):
            cached(images(2, 8, size, size))
    assert len(cached.implementations) == 16
    assert len({each.keywords["weight"].data_ptr() for each in cached.implementations.values()}) == 1


@pytest.mark.parametrize("size", [(2, 2), (8, 8)])
def test_empty_batch_after_a_full_one(size: tuple[int, int]) -> None:
    for kernel in (1, 3):
        cached = cache_convolutions(nn.Sequential(convolution(3, 4, kernel)))
        x = images(2, 3, *(extent + kernel - 1 for extent in size))
        assert cached(x)[:0].shape == cached(x[:0]).shape


def test_strided_gradient_has_the_precision_of_its_forward_pass() -> None:
    plain = convolution(3, 10, 7, stride=2, padding=3)
    found = []
    for conv in (cache_convolutions(nn.Sequential(copy.deepcopy(plain))), plain):
        x = images(2, 3, 16, 16).requires_grad_()
        y = conv(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(torch.autograd.grad(y, x, torch.ones_like(y))[0])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_torch_func_and_saving() -> None:
    cached = cache_convolutions(nn.Sequential(convolution(3, 8, 7, stride=2, padding=3), nn.Flatten()))
    x = images(2, 3, 8, 8)
    expected = results(cached, x)[1]
    got = torch.func.grad(lambda x: (cached(x) * torch.ones(2, 128)).sum())(x)
    assert got.shape == expected.shape
    assert torch.func.vmap(cached)(x[:, None]).shape == (2, 1, 128)
    torch.save(cached, io.BytesIO())  # with what it has prepared


@pytest.mark.parametrize("name", ["resnet18", "resnet26"])
@pytest.mark.parametrize("size", [32, 48])
def test_whole_networks_and_a_copy_of_one(name: str, size: int) -> None:
    model = build_model(name, classes=10, image_size=size).eval().requires_grad_(False)
    x = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    expected = results(model, x)
    cached = cache_convolutions(copy.deepcopy(model))
    for got in (results(cached, x), results(copy.deepcopy(cached), x)):
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))
