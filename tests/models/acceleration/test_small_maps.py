"""Small-map convolutions equal `nn.Conv2d` in output and gradients, and are used where they are faster."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from inoculate.models.acceleration.geometry import ConvGeometry
from inoculate.models.acceleration.small_maps import (
    MatrixConv,
    SmallMapConv2d,
    inference_context,
    use_small_map_convolutions,
)

# kernel, stride, padding, map
AS_MATRIX = [
    (3, 1, 1, (1, 1)),
    (3, 2, 1, (2, 2)),
    (3, 2, 1, (1, 1)),
    (1, 1, 0, (1, 1)),
    (1, 2, 0, (1, 1)),
    (1, 2, 0, (2, 2)),  # one output pixel, which depends on a part of the map
    (1, (3, 2), 0, (3, 2)),
    (3, 2, 1, (1, 2)),
    (3, 2, 1, (2, 1)),
    ((3, 1), 2, (1, 0), (2, 1)),
    (5, 3, 2, (3, 2)),
    (2, 1, 0, (2, 2)),
    (3, 1, 1, (2, 2)),
    (3, 1, 1, (1, 2)),
    (3, 1, 1, (1, 4)),
    (3, 1, 2, (1, 1)),  # most outputs depend on padding alone
    (5, 1, 2, (2, 3)),
    (5, 2, 2, (3, 4)),
]
GENERAL = [
    (1, 1, 0, (2, 2)),
    (1, 1, 0, (1, 2)),
    (3, 1, 1, (2, 3)),
    (3, 2, 1, (4, 4)),
    (3, 1, 0, (4, 5)),
    (1, 1, 1, (1, 1)),
]


def pair(*args: object, **options: object) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The same convolution as `nn.Conv2d` and as `SmallMapConv2d`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = nn.Conv2d(*args, **options)  # type: ignore[arg-type]
    return plain, use_small_map_convolutions(nn.Sequential(copy.deepcopy(plain)))[0]


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def results(conv: nn.Conv2d, x: Tensor) -> list[Tensor]:
    """Output, and the gradients of a seeded weighting of it in image, weight and bias."""
    x = x.clone().requires_grad_()
    y = conv(x)
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=y.dtype)).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in conv.parameters())]


def uses_matrix(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether the output was computed as a matrix product."""
    nodes, names = [conv(x.clone().requires_grad_()).grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None:
            names.add(node.name())
            nodes += [following for following, _ in node.next_functions]
    return f"{MatrixConv.__name__}Backward" in names


@pytest.mark.smoke
def test_output_and_gradients_equal_those_of_conv2d() -> None:
    formats = (torch.contiguous_format, torch.channels_last)
    for (kernel, stride, padding, size), memory_format, bias in product(AS_MATRIX + GENERAL, formats, (True, False)):
        case = f"kernel {kernel}, stride {stride}, padding {padding}, map {size}, {memory_format}, bias {bias}"
        plain, small = pair(6, 10, kernel, stride=stride, padding=padding, bias=bias)
        x = images(4, 6, *size).contiguous(memory_format=memory_format)
        for got, expected in zip(results(small, x), results(plain, x), strict=True):
            assert got.shape == expected.shape, case
            tolerance = 1e-5 * float(expected.abs().max())
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=tolerance, msg=lambda m, c=case: f"{c}: {m}")
        assert uses_matrix(small, x) == ((kernel, stride, padding, size) in AS_MATRIX), case


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
def test_other_kinds_use_the_general_routine(options: dict[str, object]) -> None:
    options = {"padding": 1, **options}
    plain, small = pair(6, 10, 3, **options)
    x = images(4, 6, *((3, 3) if options["padding"] == 0 else (1, 1)))
    for got, expected in zip(results(small, x), results(plain, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert not uses_matrix(small, x)


@pytest.mark.parametrize("batch", [(), (0,), (1,)])
def test_image_without_batch_and_empty_batch(batch: tuple[int, ...]) -> None:
    plain, small = pair(6, 10, 3, padding=1)
    x = torch.ones(*batch, 6, 1, 1)
    for got, expected in zip(results(small, x), results(plain, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"), [*AS_MATRIX[:6], (3, 1, 1, (2, 2)), (3, 1, 2, (1, 1))]
)
def test_first_and_second_gradients_against_finite_differences(
    kernel: int, stride: int, padding: int, size: tuple[int, int]
) -> None:
    _, small = pair(2, 3, kernel, stride=stride, padding=padding, bias=False)
    x = images(2, 2, *size).double().requires_grad_()
    weight = small.weight.detach().double().requires_grad_()
    geometry = ConvGeometry.of(small, x.shape)
    assert geometry
    function = lambda x, w: MatrixConv.apply(geometry.sampled(x), w, geometry)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, weight))
    assert torch.autograd.gradgradcheck(function, (x, weight))


@pytest.mark.parametrize("size", [1, 2])
def test_under_autocast(size: int) -> None:
    plain, small = pair(6, 10, 3, padding=1)
    x = images(4, 6, size, size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, expected = results(small, x), results(plain, x)
    assert got[0].dtype is torch.bfloat16
    for a, b in zip(got, expected, strict=True):
        assert a.dtype is b.dtype
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


class _OwnConv2d(nn.Conv2d):
    pass


def test_names_parameters_and_subclasses_stay() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(_OwnConv2d(2, 2, 1), nn.BatchNorm2d(2)))
    before = {name: id(p) for name, p in net.named_parameters()}
    assert use_small_map_convolutions(net) is net
    assert {name: id(p) for name, p in net.named_parameters()} == before
    assert [type(net[0]), type(net[1][0])] == [SmallMapConv2d, _OwnConv2d]


def test_inference_context_ends_with_its_block_and_with_an_exception() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), SmallMapConv2d(2, 2, 1), _OwnConv2d(2, 2, 1))
    kinds, names = [type(m) for m in net], dict(net.named_parameters())
    flags, attributes = [p.requires_grad for p in net.parameters()], [set(vars(m)) for m in net]
    with pytest.raises(ZeroDivisionError), inference_context(net):  # noqa: PT012
        assert [type(m) for m in net] == [SmallMapConv2d, SmallMapConv2d, _OwnConv2d]
        assert not any(m.training for m in net.modules())
        net(torch.rand(1, 1, 5, 5))
        with inference_context(net):  # the outer context restores, not the inner
            pass
        assert type(net[0]) is SmallMapConv2d
        _ = 1 / 0
    assert [type(m) for m in net] == kinds
    assert [set(vars(m)) for m in net] == attributes
    assert dict(net.named_parameters()) == names
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(m.training for m in net.modules())


@pytest.mark.parametrize(("size", "learns", "expected"), [(1, False, True), (2, True, True), (2, False, False)])
def test_matrix_is_used_where_it_pays(size: int, learns: bool, expected: bool) -> None:
    _, small = pair(6, 10, 3, padding=1)
    assert uses_matrix(small.requires_grad_(learns), torch.rand(2, 6, size, size)) is expected


def test_devices_and_dtypes_unknown_to_autocast() -> None:
    _, small = pair(6, 10, 3, padding=1)
    assert copy.deepcopy(small).to("meta")(torch.rand(2, 6, 2, 2, device="meta")).shape == (2, 10, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(RuntimeError):
        small(torch.zeros(2, 6, 1, 1, dtype=torch.uint8))


def test_the_next_layer_may_work_in_place():
    plain = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(inplace=True))
    small = use_small_map_convolutions(copy.deepcopy(plain))
    x = torch.randn(2, 3, 1, 1)
    for model in (plain, small):
        model(x).sum().backward()
    torch.testing.assert_close(small(x), plain(x))
    torch.testing.assert_close(small[0].weight.grad, plain[0].weight.grad)
