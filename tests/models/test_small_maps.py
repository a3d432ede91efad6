from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from inoculate.models.acceleration.small_maps import (
    ConvGeometry,
    SmallMapConv2d,
    _Product,
    inference_context,
    use_small_map_convolutions,
)

SHORT = [  # kernel, stride, padding, map: the product
    (3, 1, 1, (1, 1)),
    (3, 2, 1, (2, 2)),
    (3, 2, 1, (1, 1)),
    (1, 1, 0, (1, 1)),
    (1, 2, 0, (1, 1)),
    (1, 2, 0, (2, 2)),  # one output pixel, and the kernel meets only a part of the map
    (1, (3, 2), 0, (3, 2)),
    (3, 2, 1, (1, 2)),
    (3, 2, 1, (2, 1)),
    ((3, 1), 2, (1, 0), (2, 1)),
    (5, 3, 2, (3, 2)),
    (2, 1, 0, (2, 2)),
    (3, 1, 1, (2, 2)),
    (3, 1, 1, (1, 2)),
    (3, 1, 1, (1, 4)),
    (3, 1, 2, (1, 1)),  # most outputs see padding alone
    (5, 1, 2, (2, 3)),
    (5, 2, 2, (3, 4)),
]
LONG = [  # the general routine
    (1, 1, 0, (2, 2)),
    (1, 1, 0, (1, 2)),
    (3, 1, 1, (2, 3)),
    (3, 2, 1, (4, 4)),
    (3, 1, 0, (4, 5)),
    (1, 1, 1, (1, 1)),
]


def pair(*args: object, **options: object) -> tuple[nn.Conv2d, nn.Conv2d]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = nn.Conv2d(*args, **options)  # type: ignore[arg-type]
    return plain, use_small_map_convolutions(nn.Sequential(copy.deepcopy(plain)))[0]


def results(conv: nn.Conv2d, x: Tensor) -> list[Tensor]:
    """Output, and the gradients of a seeded weighting of it in image, weight and bias."""
    x = x.clone().requires_grad_()
    y = conv(x)
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=y.dtype)).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in conv.parameters())]


def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    original = _Product.apply
    monkeypatch.setattr(_Product, "apply", lambda *a: (seen.append(1), original(*a))[1])
    return seen


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kernel", "stride", "padding", "size"), SHORT + LONG)
def test_output_and_gradients_equal_those_of_conv2d(
    kernel: int, stride: int, padding: int, size: tuple[int, int], layout: torch.memory_format, bias: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    seen = calls(monkeypatch)
    plain, point = pair(6, 10, kernel, stride=stride, padding=padding, bias=bias)
    x = torch.randn(4, 6, *size, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=layout)
    for got, expected in zip(results(point, x), results(plain, x), strict=True):
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert len(seen) == ((kernel, stride, padding, size) in SHORT)


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2},
        {"dilation": 2, "padding": 2},
        {"padding": "same"},
        {"padding_mode": "reflect", "padding": 0},
        {"padding_mode": "circular"},
    ],
)
def test_other_kinds_take_the_general_routine(options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = calls(monkeypatch)
    options = {"padding": 1, **options}
    plain, point = pair(6, 10, 3, **options)
    size = (3, 3) if options["padding"] == 0 else (1, 1)
    x = torch.randn(4, 6, *size, generator=torch.Generator().manual_seed(1))
    for got, expected in zip(results(point, x), results(plain, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert seen == []


@pytest.mark.parametrize("batch", [(), (0,), (1,)])
def test_an_image_without_batch_and_an_empty_batch(batch: tuple[int, ...]) -> None:
    plain, point = pair(6, 10, 3, padding=1)
    x = torch.ones(*batch, 6, 1, 1)
    for got, expected in zip(results(point, x), results(plain, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "padding", "size"), [*SHORT[:6], (3, 1, 1, (2, 2)), (3, 1, 2, (1, 1))])
def test_gradients_against_finite_differences_and_once_more(
    kernel: int, stride: int, padding: int, size: tuple[int, int]
) -> None:
    _, point = pair(2, 3, kernel, stride=stride, padding=padding, bias=False)
    x = torch.randn(2, 2, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    weight = point.weight.detach().double().requires_grad_()
    slide = ConvGeometry.of(point, x.shape)
    assert slide
    product = lambda x, w: _Product.apply(slide.met(x), w, slide)  # noqa: E731
    assert torch.autograd.gradcheck(product, (x, weight))
    assert torch.autograd.gradgradcheck(product, (x, weight))


@pytest.mark.parametrize("size", [1, 2])
def test_it_works_under_autocast(size: int) -> None:
    plain, point = pair(6, 10, 3, padding=1)
    x = torch.randn(4, 6, size, size, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, expected = results(point, x), results(plain, x)
    assert got[0].dtype is torch.bfloat16
    for a, b in zip(got, expected, strict=True):
        assert a.dtype is b.dtype
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_names_parameters_and_subclasses_stay() -> None:
    class Other(nn.Conv2d):
        pass

    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(Other(2, 2, 1), nn.BatchNorm2d(2)))
    before = {name: id(p) for name, p in net.named_parameters()}
    assert use_small_map_convolutions(net) is net
    assert {name: id(p) for name, p in net.named_parameters()} == before
    assert [type(net[0]), type(net[1][0])] == [SmallMapConv2d, Other]


class _Other(nn.Conv2d):
    pass


def test_borrowed_inside_the_block_alone_and_after_an_exception_too() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), SmallMapConv2d(2, 2, 1), _Other(2, 2, 1))
    kinds, names = [type(m) for m in net], dict(net.named_parameters())
    flags, attributes = [p.requires_grad for p in net.parameters()], [set(vars(m)) for m in net]
    with pytest.raises(ZeroDivisionError), inference_context(net):  # noqa: PT012
        assert [type(m) for m in net] == [SmallMapConv2d, SmallMapConv2d, _Other]
        assert not any(m.training for m in net.modules())
        net(torch.rand(1, 1, 5, 5))
        with inference_context(net):  # a second borrower leaves it to the first
            pass
        assert type(net[0]) is SmallMapConv2d
        _ = 1 / 0
    assert [type(m) for m in net] == kinds
    assert [set(vars(m)) for m in net] == attributes
    assert dict(net.named_parameters()) == names
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(m.training for m in net.modules())


@pytest.mark.parametrize(("size", "learns", "product"), [(1, False, True), (2, True, True), (2, False, False)])
def test_a_matrix_is_made_where_it_pays(
    size: int, learns: bool, product: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = calls(monkeypatch)
    _, point = pair(6, 10, 3, padding=1)
    point.requires_grad_(learns)(torch.rand(2, 6, size, size))
    assert bool(seen) is product


def test_devices_and_dtypes_that_autocast_does_not_know() -> None:
    _, point = pair(6, 10, 3, padding=1)
    assert copy.deepcopy(point).to("meta")(torch.rand(2, 6, 2, 2, device="meta")).shape == (2, 10, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(RuntimeError):
        point(torch.zeros(2, 6, 1, 1, dtype=torch.uint8))
