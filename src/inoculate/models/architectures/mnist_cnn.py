"""The small networks with which MNIST is attacked in the literature, with the parameter names of their code."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from inoculate.data.preprocessing import Size, as_sides
from inoculate.models.architectures.small_cnn import small_cnn


def trades_cnn(classes: int, channels: int, image_size: Size) -> nn.Sequential:
    """`SmallCNN` of TRADES (Zhang et al., 2019): four 3×3 convolutions without padding, three dense layers."""
    height, width = (((side - 4) // 2 - 4) // 2 for side in as_sides(image_size))
    features = nn.Sequential(OrderedDict(
        conv1=nn.Conv2d(channels, 32, 3), relu1=nn.ReLU(),
        conv2=nn.Conv2d(32, 32, 3), relu2=nn.ReLU(), maxpool1=nn.MaxPool2d(2),
        conv3=nn.Conv2d(32, 64, 3), relu3=nn.ReLU(),
        conv4=nn.Conv2d(64, 64, 3), relu4=nn.ReLU(), maxpool2=nn.MaxPool2d(2),
    ))  # fmt: skip
    classifier = nn.Sequential(OrderedDict(
        fc1=nn.Linear(64 * height * width, 200), relu1=nn.ReLU(), drop=nn.Dropout(0.5),
        fc2=nn.Linear(200, 200), relu2=nn.ReLU(), fc3=nn.Linear(200, classes),
    ))  # fmt: skip
    return nn.Sequential(OrderedDict(feature_extractor=features, flatten=nn.Flatten(), classifier=classifier))


def madry_cnn(classes: int, channels: int, image_size: Size) -> nn.Sequential:
    """The network of Madry et al. (2018) for MNIST, with the names of its PyTorch version in advertorch."""
    height, width = (side // 2 // 2 for side in as_sides(image_size))
    return nn.Sequential(OrderedDict(
        conv1=nn.Conv2d(channels, 32, 5, padding=2), relu1=nn.ReLU(), maxpool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(32, 64, 5, padding=2), relu2=nn.ReLU(), maxpool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(), linear1=nn.Linear(64 * height * width, 1024), relu3=nn.ReLU(),
        linear2=nn.Linear(1024, classes),
    ))  # fmt: skip


def wong_cnn(classes: int, channels: int, image_size: Size) -> nn.Sequential:
    """The network of Wong and Kolter (2018) and of Wong et al. (2020) for MNIST: two 4×4 convolutions of stride 2."""
    return small_cnn(classes, channels, image_size, maps=(16, 32), units=100)
