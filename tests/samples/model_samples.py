"""Networks of different structure, for the tests of copies and of what a model may do in its forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inoculate.data.dataset import Dataset
from inoculate.models.build import build_model


def plain_cnn() -> nn.Module:
    layers = [nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5))


def only_28_pixels() -> nn.Module:
    """Takes no other size than 28×28, so that a fold cannot be checked on random images of the sizes tried."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, 5))


class NormBeforeConv(nn.Module):
    """Defined as convolution, BatchNorm; run as BatchNorm of the input, convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.norm(x)).relu().mean((2, 3)))


class SharedConv(nn.Module):
    """The same convolution is run with and without its BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.norm(self.conv(x)).relu() + self.conv(x)).mean((2, 3)))


def no_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))


def no_conv() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))


@dataclass(frozen=True)
class Network:
    """A factory, the images that the network takes, and how many BatchNorm layers are left after folding."""

    make: Callable[[], nn.Module]
    channels: int
    size: int
    norms_left: int = 0

    def images(self, n: int, seed: int = 1) -> Tensor:
        return torch.rand(n, self.channels, self.size, self.size, generator=torch.Generator().manual_seed(seed))

    def with_statistics(self) -> nn.Module:
        """In eval mode, with BatchNorm statistics, weights and biases that make a difference if one is left out."""
        g = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            model = self.make().train()
            for m in model.modules():
                if isinstance(m, nn.BatchNorm2d):
                    m.weight.uniform_(0.5, 1.5, generator=g)
                    m.bias.uniform_(-0.5, 0.5, generator=g)
            for _ in range(3):
                model(torch.rand(16, self.channels, self.size, self.size, generator=g))
        return model.eval()


NETWORKS = {
    "resnet18": Network(lambda: build_model("resnet18", classes=5, channels=3, image_size=32), 3, 32),
    "resnet26": Network(lambda: build_model("resnet26", classes=5, channels=3, image_size=32), 3, 32),
    "resnet10t": Network(lambda: build_model("resnet10t", classes=5, channels=1, image_size=32), 1, 32, norms_left=1),
    "small stem": Network(lambda: build_model("resnet18", classes=5, channels=1, image_size=16, stem="small"), 1, 16),
    "plain": Network(plain_cnn, 1, 16),
    "only 28 pixels": Network(only_28_pixels, 1, 28, norms_left=1),
    "norm before conv": Network(NormBeforeConv, 3, 8, norms_left=1),
    "shared conv": Network(SharedConv, 3, 8, norms_left=1),
    "no norm": Network(no_norm, 1, 8),
    "no conv": Network(no_conv, 1, 8),
}


def batchnorms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


class TutorialNet(nn.Module):
    """As in a tutorial: BatchNorm, dropout, and feature maps flattened with `.view`; for 3×8×8 images and 4 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.head = nn.Linear(4 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(torch.relu(self.norm(self.conv(x))))
        return self.head(x.view(x.size(0), -1))


def tutorial_net() -> nn.Module:
    """A `TutorialNet` with BatchNorm statistics, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TutorialNet().train()
        model(torch.rand(32, 3, 8, 8))
    return model.eval()


def tutorial_images(n: int = 6) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def small_data(channels: int = 3, size: int = 8, classes: Sequence[str] = "abcd") -> Dataset:
    """A black image of each class."""
    images = torch.zeros(len(classes), channels, size, size, dtype=torch.uint8)
    return Dataset.from_tensors(images, torch.arange(len(classes)), classes=classes)
