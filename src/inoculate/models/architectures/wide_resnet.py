"""Wide ResNets for small images (Zagoruyko and Komodakis, 2016), with the parameter names of published checkpoints."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (16, 32, 64)  # of the three groups of blocks, before they are widened


class WideBlock(nn.Module):
    """BatchNorm, ReLU, 3×3 convolution, twice; where the width changes, a 1×1 convolution is the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.conv2 = _conv3x3(outputs, outputs)
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        residual: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return residual + (x if self.convShortcut is None else self.convShortcut(active))


class WideResNet(nn.Module):
    """WRN-`depth`-`width` as adversarial training on CIFAR uses it (TRADES, RobustBench): B×C×H×W → B×`classes`.

    head_bias: whether the last layer has a bias, which some published checkpoints lack. The features are averaged over
    the whole map (8×8 for 32×32 images).
    """

    def __init__(self, depth: int, width: int, classes: int, channels: int, head_bias: bool = True) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels, 16)
        inputs = 16
        for number, outputs in enumerate((width * each for each in WIDTHS), start=1):
            blocks = [
                WideBlock(outputs if at else inputs, outputs, 2 if number > 1 and not at else 1)
                for at in range((depth - 4) // 6)
            ]
            self.add_module(f"block{number}", nn.Sequential(OrderedDict(layer=nn.Sequential(*blocks))))
            inputs = outputs
        self.bn1 = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs, classes, bias=head_bias)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for number in (1, 2, 3):
            x = self.get_submodule(f"block{number}")(x)
        logits: Tensor = self.fc(F.relu(self.bn1(x)).mean((2, 3)))
        return logits


class SwishBlock(nn.Module):
    """As `WideBlock` with SiLU (Swish), and padding on the right and below alone where the stride is 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0, self.batchnorm_1 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv_0 = nn.Conv2d(inputs, outputs, 3, stride, bias=False)
        self.conv_1 = _conv3x3(outputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None
        self.padding = (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        active = F.silu(self.batchnorm_0(x))
        residual: Tensor = self.conv_1(F.silu(self.batchnorm_1(self.conv_0(F.pad(active, self.padding)))))
        return residual + (x if self.shortcut is None else self.shortcut(active))


class SwishWideResNet(nn.Module):
    """WRN-`depth`-`width` with Swish of Gowal et al. (2020), whose checkpoints RobustBench calls `DMWideResNet`.

    B×C×H×W → B×`classes`. The published files hold a mean and a std, which belong to the normalisation before it.
    """

    def __init__(self, depth: int, width: int, classes: int, channels: int) -> None:
        super().__init__()
        self.init_conv = _conv3x3(channels, 16)
        groups, inputs = [], 16
        for number, outputs in enumerate(width * each for each in WIDTHS):
            blocks = [
                SwishBlock(outputs if at else inputs, outputs, 2 if number and not at else 1)
                for at in range((depth - 4) // 6)
            ]
            groups.append(nn.Sequential(OrderedDict(block=nn.Sequential(*blocks))))
            inputs = outputs
        self.layer = nn.Sequential(*groups)
        self.batchnorm = nn.BatchNorm2d(inputs)
        self.logits = nn.Linear(inputs, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(F.silu(self.batchnorm(self.layer(self.init_conv(x)))).mean((2, 3)))
        return logits


def initialize(network: nn.Module) -> None:
    """Draw the kernels as He et al. (2015) do, by the number of outputs; zero the biases of linear layers."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear) and isinstance(module.bias, Tensor):
            with torch.no_grad():
                module.bias.zero_()


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
