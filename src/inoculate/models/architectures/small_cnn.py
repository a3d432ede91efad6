"""A small network for small images, for which timm has none."""

from __future__ import annotations

from torch import nn

from inoculate.data.preprocessing import Size, as_sides

SMALL_CNN = "small_cnn"


def small_cnn(
    classes: int, channels: int, image_size: Size, *, maps: tuple[int, int] = (16, 64), units: int = 128
) -> nn.Sequential:
    """Two 4×4 convolutions of stride 2 (`maps`) and two dense layers (`units` between them): for 8 to 40 pixels.

    The network with which Wong et al. (2020) train MNIST, its second convolution twice as wide. No BatchNorm: clean and
    adversarial batches have different statistics. It takes pixels as they are, unless it is told mean and std.
    """
    height, width = as_sides(image_size)
    return nn.Sequential(
        nn.Conv2d(channels, maps[0], 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(maps[0], maps[1], 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(maps[1] * (height // 4) * (width // 4), units),
        nn.ReLU(),
        nn.Linear(units, classes),
    )
