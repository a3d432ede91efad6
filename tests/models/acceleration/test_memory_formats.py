"""Channels-last in grey images and behind a flattened map."""

from __future__ import annotations

import torch
from attack_samples import for_every, seeded
from torch import Tensor, nn

from inoculate.models.acceleration.fast import fast
from inoculate.models.acceleration.hardware import memory_format_for
from inoculate.models.acceleration.memory_formats import in_memory_format, keep_formats
from inoculate.models.architectures.small_cnn import small_cnn

FORMATS = (torch.channels_last, torch.contiguous_format)


@for_every(FORMATS, (1, 3))
def test_a_convolution_answers_in_the_format_of_its_images(memory_format: torch.memory_format, channels: int) -> None:
    x = torch.rand(2, channels, 6, 6, generator=seeded(0))
    images = in_memory_format(x, memory_format)
    assert torch.equal(images, x)
    assert nn.Conv2d(channels, 4, 3)(images).is_contiguous(memory_format=memory_format)


def test_gradients_behind_a_flattened_map_are_the_same_in_the_format_of_the_map() -> None:
    plain, kept = (nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(4 * 5 * 5, 3)) for _ in range(2))
    kept.load_state_dict(plain.state_dict())
    keep_formats(kept)
    maps = torch.randn(2, 4, 5, 5, generator=seeded(0)).contiguous(memory_format=torch.channels_last)
    found = [_gradient_behind(model, maps) for model in (plain, kept)]
    assert torch.equal(*found)
    assert [each.is_contiguous(memory_format=torch.channels_last) for each in found] == [False, True]


def test_images_that_are_flattened_at_once_keep_no_hook() -> None:
    model = keep_formats(nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 3)))
    x = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    model(x).sum().backward()
    assert not x._backward_hooks


def test_maps_and_gradients_of_a_grey_network_are_channels_last() -> None:
    """A mixture of formats takes a third longer."""
    copy = fast(small_cnn(10, 1, 28).eval())
    copy(torch.rand(2, 1, 28, 28))
    seen: list[Tensor] = []

    def watch(_module: nn.Module, _inputs: object, y: Tensor) -> None:
        seen.append(y)
        y.register_hook(seen.append)

    for module in copy.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(watch)
    x = torch.rand(2, 1, 28, 28).requires_grad_()
    torch.autograd.grad(copy(x).sum(), x)
    assert len(seen) == 4
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in seen)


class _Viewing(nn.Module):
    """Refuses channels-last maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(channels, 4, 3), nn.Linear(4 * 6 * 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.conv(x).view(len(x), -1))
        return logits


@for_every((1, 3))
def test_a_network_that_refuses_channels_last_gets_the_other_format(channels: int) -> None:
    assert memory_format_for(_Viewing(channels), torch.rand(1, channels, 8, 8)) is torch.contiguous_format


def _gradient_behind(model: nn.Module, maps: Tensor) -> Tensor:
    """The gradient that comes out of the flattening, at the output of the first layer."""
    seen: list[Tensor] = []
    layer = model[0]  # type: ignore[index]
    hook = layer.register_full_backward_hook(lambda _m, _in, out: seen.append(out[0]))
    x = maps.clone().requires_grad_()
    model(x).sum().backward()
    hook.remove()
    return seen[0]
