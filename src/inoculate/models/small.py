"""A small network for small images, for which timm has none."""

from __future__ import annotations

from torch import nn

SMALL_CNN = "small_cnn"


def small_cnn(classes: int, channels: int, image_size: int) -> nn.Sequential:
    """Two 4×4 convolutions of stride 2 (32 and 64 maps) and two dense layers (256 units): for 16 to 40 pixels.

    Twice the width of the network with which Wong et al. (2020) train MNIST. No BatchNorm: clean and adversarial
    batches have different statistics, and on digits it is not missed.
    """
    side = image_size // 2 // 2
    return nn.Sequential(
        nn.Conv2d(channels, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * side * side, 256),
        nn.ReLU(),
        nn.Linear(256, classes),
    )
