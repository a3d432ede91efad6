"""A small network for small images, for which timm has none."""

from __future__ import annotations

from torch import nn

from inoculate.data.preprocessing import Size, as_sides

SMALL_CNN = "small_cnn"


def small_cnn(classes: int, channels: int, image_size: Size) -> nn.Sequential:
    """Two 4×4 convolutions of stride 2 (16 and 64 maps) and two dense layers (128 units): for 8 to 40 pixels.

    The network with which Wong et al. (2020) train MNIST, its second convolution twice as wide. No BatchNorm: clean and
    adversarial batches have different statistics. It takes pixels as they are, unless it is told mean and std.
    """
    height, width = as_sides(image_size)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 64, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )
