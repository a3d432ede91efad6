from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import inoculate.models.acceleration.cached_convolutions as module
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import judge_clean
from inoculate.models.acceleration.cached_convolutions import cache_convolutions
from inoculate.models.acceleration.fast import fast, full_precision
from inoculate.models.build import build_model

FORMS = {  # the form that each takes: in channels, kernel, stride, padding, map
    "_product": [
        (6, 3, 1, 1, (1, 1)),
        (6, 3, 1, 1, (2, 2)),
        (6, 3, 2, 1, (2, 2)),
        (6, 3, 1, 1, (1, 2)),
        (6, 3, 1, 1, (1, 3)),
        (6, 3, 1, 0, (3, 3)),
        (6, (3, 1), (2, 1), (1, 0), (2, 1)),
        (6, 5, 3, 2, (3, 2)),
        (6, 3, 1, 2, (1, 1)),  # most outputs see padding alone
        (3, 7, 2, 3, (2, 2)),
    ],
    "_pixelwise": [
        (6, 1, 1, 0, (1, 1)),
        (6, 1, 1, 0, (2, 2)),
        (6, 1, 2, 0, (2, 2)),
        (6, 1, 2, 0, (3, 4)),
        (6, 1, (2, 1), 0, (3, 2)),
    ],
    "_Transposed": [
        (3, 7, 2, 3, (32, 32)),
        (3, 7, 2, 3, (31, 28)),
        (1, 3, 2, 1, (9, 10)),
        (3, 3, 2, 0, (10, 7)),
        (3, 4, 4, 0, (16, 18)),
        (4, 2, 3, 0, (11, 11)),  # pixels between the kernels, which none sees
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
CASES = [(form, *case) for form, cases in FORMS.items() for case in cases]


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


def images(*shape: int, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=layout)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The forms that were taken, in order."""
    seen: list[str] = []

    def noting(name: str) -> Callable[..., object]:
        real = getattr(module, name)
        return lambda *args, **options: (seen.append(name), real(*args, **options))[1]

    for name in ("_product", "_pixelwise", "_Transposed"):
        monkeypatch.setattr(module, name, noting(name))
    return seen


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("form", "channels", "kernel", "stride", "padding", "size"), CASES)
def test_output_gradient_and_layout_equal_those_of_conv2d(
    form: str, channels: int, kernel: int, stride: int, padding: int, size: tuple[int, int],
    layout: torch.memory_format, bias: bool, used: list[str],
) -> None:  # fmt: skip
    plain = convolution(channels, 10, kernel, stride=stride, padding=padding, bias=bias)
    quick = cache_convolutions(nn.Sequential(copy.deepcopy(plain)))
    x = images(4, channels, *size, layout=layout)
    for _ in range(2):  # the second time the form is there
        for got, expected in zip(results(quick, x), results(plain, x), strict=True):
            assert got.shape == expected.shape
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * max(float(expected.abs().max()), 1e-3))
        if channels > 1 and x[0, 0].numel() > 1:  # else both layouts are one
            assert quick(x).is_contiguous(memory_format=layout)
            assert plain(x).is_contiguous(memory_format=layout)
    assert set(used) == ({form} if form != "general" else set())


@pytest.mark.parametrize(("form", "channels", "kernel", "stride", "padding", "size"), CASES)
def test_under_autocast_it_is_as_near_to_the_truth_as_conv2d(
    form: str, channels: int, kernel: int, stride: int, padding: int, size: tuple[int, int]
) -> None:
    plain = convolution(channels, 10, kernel, stride=stride, padding=padding)
    quick = cache_convolutions(nn.Sequential(copy.deepcopy(plain)))
    x = images(4, channels, *size, layout=torch.channels_last)
    exact = results(plain, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, theirs = results(quick, x), results(plain, x)
    for a, b, truth in zip(got, theirs, exact, strict=True):
        assert a.dtype is b.dtype
        slack = 0.01 * float(truth.abs().max())
        assert float((a.float() - truth).abs().max()) <= 2 * float((b.float() - truth).abs().max()) + slack
    assert results(quick, x)[0].dtype is torch.float32  # and outside in full


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
def test_other_kinds_take_the_general_routine(options: dict[str, object], used: list[str]) -> None:
    plain = convolution(6, 10, 3, **options)
    quick = cache_convolutions(nn.Sequential(copy.deepcopy(plain)))
    for got, expected in zip(results(quick, images(4, 6, 2, 2)), results(plain, images(4, 6, 2, 2)), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    assert used == []


@pytest.mark.parametrize("batch", [(), (0,), (1,)])
def test_an_image_without_batch_and_an_empty_batch(batch: tuple[int, ...]) -> None:
    plain = convolution(6, 10, 3, padding=1)
    quick = cache_convolutions(nn.Sequential(copy.deepcopy(plain)))
    x = images(*batch, 6, 2, 2)
    for got, expected in zip(results(quick, x), results(plain, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 2), (1, 1), (2, 9)])
def test_a_map_smaller_than_the_kernel_is_refused_as_ever(size: tuple[int, int]) -> None:
    quick = cache_convolutions(nn.Sequential(convolution(6, 10, 3)))
    with pytest.raises(RuntimeError, match="Kernel size"):
        quick(images(4, 6, *size))


def _written(conv: nn.Conv2d) -> None:
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


@pytest.mark.parametrize("change", [_written, _in_place, _out, _bias, _loaded])
@pytest.mark.parametrize("size", [(2, 2), (8, 8)])
@pytest.mark.parametrize("autocast", [False, True])
def test_changed_weights_make_new_forms(
    change: Callable[[nn.Conv2d], None], size: tuple[int, int], autocast: bool
) -> None:
    plain = convolution(3, 10, 3, stride=2, padding=1)
    quick = cache_convolutions(nn.Sequential(copy.deepcopy(plain)))
    x = images(4, 3, *size)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        before = quick(x)
        change(plain)
        change(quick[0])
        got = quick(x)
        torch.testing.assert_close(got, plain(x), rtol=2e-2 if autocast else 1e-5, atol=2e-2 if autocast else 1e-5)
    assert not torch.equal(got, before)


def test_forms_first_made_under_inference_mode_serve_gradients() -> None:
    quick = cache_convolutions(nn.Sequential(convolution(3, 4, 3, stride=2, padding=1)))
    x = images(2, 3, 2, 2)
    with torch.inference_mode():
        quick(x)
    assert float(results(quick, x)[1].abs().sum()) > 0


def test_a_kernel_that_learns_gets_its_gradient() -> None:
    plain = convolution(3, 4, 3, stride=2, padding=1)
    quick = cache_convolutions(nn.Sequential(copy.deepcopy(plain)))
    x = images(2, 3, 2, 2)
    quick(x)
    for conv in (plain, quick):
        conv.requires_grad_()
        conv(x).square().sum().backward()
    torch.testing.assert_close(quick[0].weight.grad, plain.weight.grad)


def test_weights_of_one_pass_are_not_taken_for_those_of_another_at_the_same_place() -> None:
    plain = convolution(3, 4, 3, stride=2, padding=1)
    quick = cache_convolutions(nn.Sequential(copy.deepcopy(plain)))[0]
    x, g = images(2, 3, 2, 2), torch.Generator().manual_seed(0)
    for _ in range(50):
        weight = torch.randn(plain.weight.shape, generator=g)
        got, expected = (torch.func.functional_call(conv, {"weight": weight}, (x,)) for conv in (quick, plain))
        del weight
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_many_map_sizes_share_one_kernel() -> None:
    quick = cache_convolutions(nn.Sequential(convolution(8, 8, 3, padding=1)))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for size in range(4, 20):
            quick(images(2, 8, size, size))
    assert len(quick.forms) == 16
    assert len({form.keywords["weight"].data_ptr() for form in quick.forms.values()}) == 1


@pytest.mark.parametrize("size", [(2, 2), (8, 8)])
def test_an_empty_batch_after_a_full_one(size: tuple[int, int]) -> None:
    for kernel in (1, 3):
        quick = cache_convolutions(nn.Sequential(convolution(3, 4, kernel)))
        x = images(2, 3, *(extent + kernel - 1 for extent in size))
        assert quick(x)[:0].shape == quick(x[:0]).shape


def test_the_gradient_in_cells_has_the_precision_of_its_forward_pass() -> None:
    plain = convolution(3, 10, 7, stride=2, padding=3)
    found = []
    for conv in (cache_convolutions(nn.Sequential(copy.deepcopy(plain))), plain):
        x = images(2, 3, 16, 16).requires_grad_()
        y = conv(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(torch.autograd.grad(y, x, torch.ones_like(y))[0])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_transforms_of_torch_func_and_saving() -> None:
    quick = cache_convolutions(nn.Sequential(convolution(3, 8, 7, stride=2, padding=3), nn.Flatten()))
    x = images(2, 3, 8, 8)
    expected = results(quick, x)[1]
    got = torch.func.grad(lambda x: (quick(x) * torch.ones(2, 128)).sum())(x)
    assert got.shape == expected.shape
    assert torch.func.vmap(quick)(x[:, None]).shape == (2, 1, 128)
    torch.save(quick, io.BytesIO())  # with its forms


class _Swaps(nn.Module):
    """Writes past autograd into its own weights as it runs: two networks that share a body."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 2, padding=1))
        self.states = [[torch.randn_like(p) for p in self.body.parameters()] for _ in range(2)]

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for state in self.states:
            for p, value in zip(self.body.parameters(), state, strict=True):
                p.data.copy_(value)
            outputs.append(self.body(x).mean((2, 3)))
        return outputs[0] - 2 * outputs[1]


def test_a_network_that_rewrites_its_weights_as_it_runs_keeps_its_outputs() -> None:
    model = _Swaps().eval()
    x = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, quick = model(x), fast(model)
        with full_precision(quick):
            torch.testing.assert_close(quick(x), expected, rtol=1e-4, atol=1e-4)
    split = Dataset.from_tensors((x * 255).to(torch.uint8), torch.arange(40) % 5, classes="abcde")
    with torch.no_grad():
        right = model(split.images[:].float() / 255).argmax(1) == split.labels
    assert torch.equal(judge_clean(model, split).right, right)


class _Four(nn.Module):
    """Takes four images, no more and no fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3)).reshape(4, 5)


def test_a_network_of_a_fixed_batch_size_goes_without_forms() -> None:
    x = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    model = _Four().eval()
    quick = fast(model)
    with full_precision(quick), torch.no_grad():
        torch.testing.assert_close(quick(x), model(x))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("size", [32, 48])
def test_whole_networks_and_a_copy_of_one(name: str, size: int) -> None:
    model = build_model(name, classes=10, image_size=size).eval().requires_grad_(False)
    x = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    expected = results(model, x)
    quick = cache_convolutions(copy.deepcopy(model))
    for got in (results(quick, x), results(copy.deepcopy(quick), x)):
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))
