"""BatchNorm folded into convolutions, once and along a training."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from model_samples import NETWORKS, NormBeforeConv, SharedConv, batchnorms
from torch import Tensor, nn

from inoculate.models.acceleration.folding import FoldedCopies, fold_batchnorm


def test_fold_that_changes_the_outputs_is_discarded() -> None:
    for name in ("norm before conv", "shared conv"):
        model = NETWORKS[name].with_statistics()
        assert fold_batchnorm(model) is model
    model = NETWORKS["plain"].with_statistics()
    assert fold_batchnorm(model) is not model


def test_norm_without_running_statistics_stays() -> None:
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2, track_running_stats=False)))
    assert batchnorms(fold_batchnorm(model.eval())) == 1


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_norm_behind_a_weight_norm_stays() -> None:
    for weight_norm in (nn.utils.weight_norm, nn.utils.parametrizations.weight_norm):
        model = nn.Sequential(weight_norm(nn.Conv2d(1, 2, 3)), nn.BatchNorm2d(2)).eval()
        assert fold_batchnorm(model) is model


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_follow_a_network_from_its_first_weights_through_training(name: str) -> None:
    network = NETWORKS[name]
    model, copies = network.make().train(), FoldedCopies()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    g = torch.Generator().manual_seed(1)
    for update in range(3):
        x, y = network.images(8, seed=update), torch.randint(5, (8,), generator=g)
        before = {n: t.clone() for n, t in model.state_dict().items()}
        copied = copies.current(model, x)
        assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
        assert all(m.training for m in model.modules())
        with torch.no_grad():
            expected, got = model.eval()(x), copied.eval()(x)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(x), y).backward()
        optimizer.step()


def test_network_is_used_itself_where_folding_would_change_it_later() -> None:
    for make in (NormBeforeConv, SharedConv):  # new: its BatchNorm changes nothing yet, so a wrong fold would not show
        model = make().eval()
        assert fold_batchnorm(model) is not model
        assert FoldedCopies().current(model, torch.rand(2, 3, 8, 8)) is model


def test_norm_without_scale_and_shift() -> None:
    model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5, affine=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for _ in range(3):
        model(torch.rand(4, 1, 8, 8))
    x = torch.rand(4, 1, 8, 8)
    copied = FoldedCopies().current(model.eval(), x)
    assert batchnorms(copied) == 0
    torch.testing.assert_close(copied(x), model(x))


class _ReadsItsNorm(nn.Module):
    """Needs its BatchNorm for bright images, which random images are not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.norm(self.conv(x)).mean((2, 3))
        return logits if x.mean() < 0.9 else logits + self.norm.running_mean


def test_copy_that_differs_on_real_images_is_not_used() -> None:
    bright = torch.ones(2, 1, 8, 8)
    model = _ReadsItsNorm()
    model(torch.rand(8, 1, 8, 8))
    assert FoldedCopies().current(model.eval(), torch.rand(2, 1, 8, 8)) is not model
    assert FoldedCopies().current(model, bright) is model


class _KeepsModulesInAList(nn.Module):
    """A list is copied with its module: its entries are then modules that no update of the weights reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5)
        self.also = [self.conv]

    def forward(self, x: Tensor) -> Tensor:
        return (self.norm(self.conv(x)) + self.also[0](x)).mean((2, 3))


def test_copy_that_does_not_follow_the_weights_is_not_used() -> None:
    model, copies = _KeepsModulesInAList().eval(), FoldedCopies()
    x = torch.rand(2, 1, 8, 8)
    assert copies.current(model, x) is not model  # the weights are those of the copy still
    with torch.no_grad():
        model.conv.weight.mul_(2)
    assert copies.current(model, x) is model
    assert copies.current(model, x) is model
