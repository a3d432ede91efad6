"""What cannot be trained is refused before a training begins."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from inoculate.core.errors import InputError
from inoculate.data.dataset import Dataset
from inoculate.models.checks import check_trainable, check_training

CLASSES = 4


class TakesMeans(nn.Module):
    """One linear layer on the channel means, after and before something else."""

    def __init__(
        self, first: Callable[[Tensor], Tensor] = lambda x: x, last: Callable[[Tensor], object] = lambda z: z
    ) -> None:
        super().__init__()
        self.layer, self.first, self.last = nn.Linear(3, CLASSES), first, last

    def forward(self, x: Tensor) -> object:
        return self.last(self.layer(self.first(x).mean((2, 3))))


@pytest.fixture
def data() -> Dataset:
    images = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Dataset.from_tensors((images * 255).to(torch.uint8), torch.arange(64) % CLASSES)


def test_networks_that_can_be_trained(data: Dataset) -> None:
    for network in (TakesMeans(), TakesMeans(lambda x: x.sub_(0.5)), TakesMeans(last=lambda z: {"logits": z})):
        network.eval().layer.bias.requires_grad_(False)
        before, rng = {n: t.clone() for n, t in network.state_dict().items()}, torch.get_rng_state()
        check_training(network, data, batch_size=100)
        assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
        assert [p.requires_grad for p in network.parameters()] == [True, False]
        assert all(p.grad is None for p in network.parameters())
        assert not network.training
        assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weight_norm_after_a_pass_with_gradients_can_be_trained(data: Dataset) -> None:
    network = TakesMeans()
    nn.utils.weight_norm(network.layer)
    network(torch.rand(2, 3, 8, 8)).sum().backward()  # type: ignore[attr-defined]
    check_training(network, data, batch_size=8)


def test_networks_that_cannot_be_trained_are_refused_in_one_line(data: Dataset) -> None:
    unnormed = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, CLASSES))
    cannot_be_copied = TakesMeans()
    cannot_be_copied.rows = (row for row in ())  # type: ignore[assignment]
    cases = (
        (TakesMeans().requires_grad_(False), 8, "no parameter of the network requires a gradient"),
        (TakesMeans().double(), 8, "parameters of torch.float64"),
        (TakesMeans().half(), 8, "parameters of torch.float16"),
        (cannot_be_copied, 8, "cannot be copied"),
        (unnormed, 1, "cannot be trained on batches of 1 images"),
        (TakesMeans(last=lambda z: {"scores": z}), 8, "must return one logit per class"),
        (TakesMeans(last=lambda z: z[:, :2]), 8, "must return one logit per class"),
        (TakesMeans(lambda x: x.detach()), 8, "no gradient of the network reaches the images"),
    )
    for network, batch_size, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            check_training(network, data, batch_size)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="unfreeze some"):
        check_trainable(nn.Flatten())
