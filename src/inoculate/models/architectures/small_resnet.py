"""ResNets with a 3×3 stem for small images (He et al., 2016), with the parameter names of published checkpoints."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.models.architectures.wide_resnet import initialize

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)  # of the four groups of blocks
EXPANSION = 4  # of the bottleneck block, which 50 layers have
# Definitions in use with the same parameter names: `activated` has its 1×1 shortcuts behind the block's first BatchNorm
# and ReLU, `raw` has them before it.
Shortcut = Literal["activated", "raw"]


class ResidualBlock(nn.Module):
    """Convolutions with a BatchNorm each, the sum with the shortcut, ReLU."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = _add_convolutions(self, inputs, width, stride, bottleneck)
        for number, conv in enumerate(_convolutions(self), start=1):
            self.add_module(f"bn{number}", nn.BatchNorm2d(conv.out_channels))
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out, convolutions = x, _convolutions(self)
        for number, conv in enumerate(convolutions, start=1):
            out = self.get_submodule(f"bn{number}")(conv(out))
            if number < len(convolutions):
                out = F.relu(out)
        return F.relu(out + self.shortcut(x))


class PreActivationBlock(nn.Module):
    """BatchNorm, ReLU and convolution in this order, and the sum with the shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool, shortcut: Shortcut) -> None:
        super().__init__()
        outputs = _add_convolutions(self, inputs, width, stride, bottleneck)
        for number, conv in enumerate(_convolutions(self), start=1):
            self.add_module(f"bn{number}", nn.BatchNorm2d(conv.in_channels))
        self.is_raw = shortcut == "raw"
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out = active = F.relu(self.get_submodule("bn1")(x))
        for number, conv in enumerate(_convolutions(self), start=1):
            out = conv(out if number == 1 else F.relu(self.get_submodule(f"bn{number}")(out)))
        if self.shortcut is None:
            return out + x
        shortcut: Tensor = self.shortcut(x if self.is_raw else active)
        return out + shortcut


class SmallResNet(nn.Module):
    """ResNet-`depth` whose stem is one 3×3 convolution, as on CIFAR (kuangliu, RobustBench): B×C×H×W → B×`classes`."""

    def __init__(self, depth: int, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        outputs = 64
        for number, (width, blocks) in enumerate(zip(WIDTHS, DEPTHS[depth], strict=True), start=1):
            layers = []
            for stride in (1 if number == 1 else 2, *(1,) * (blocks - 1)):
                layers.append(ResidualBlock(outputs, width, stride, depth >= 50))
                outputs = width * (EXPANSION if depth >= 50 else 1)
            self.add_module(f"layer{number}", nn.Sequential(*layers))
        self.linear = nn.Linear(outputs, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for number in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{number}")(x)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class PreActResNet(nn.Module):
    """Pre-activation ResNet-`depth` with a 3×3 stem: B×C×H×W → B×`classes`.

    final_bn: BatchNorm and ReLU before the average, as in He et al. (2016), Rice et al. (2020) and Wong et al. (2020);
    kuangliu's definition, and RobustBench's by default, leave it out.
    """

    def __init__(
        self, depth: int, classes: int, channels: int, *, final_bn: bool = True, shortcut: Shortcut = "activated"
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        outputs = 64
        for number, (width, blocks) in enumerate(zip(WIDTHS, DEPTHS[depth], strict=True), start=1):
            layers = []
            for stride in (1 if number == 1 else 2, *(1,) * (blocks - 1)):
                layers.append(PreActivationBlock(outputs, width, stride, depth >= 50, shortcut))
                outputs = width * (EXPANSION if depth >= 50 else 1)
            self.add_module(f"layer{number}", nn.Sequential(*layers))
        self.bn = nn.BatchNorm2d(outputs) if final_bn else None
        self.linear = nn.Linear(outputs, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for number in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{number}")(x)
        x = x if self.bn is None else F.relu(self.bn(x))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _add_convolutions(block: nn.Module, inputs: int, width: int, stride: int, bottleneck: bool) -> int:
    """Give a block its convolutions conv1, conv2 …; return the number of its outputs."""
    if not bottleneck:
        block.add_module("conv1", nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False))
        block.add_module("conv2", nn.Conv2d(width, width, 3, padding=1, bias=False))
        return width
    block.add_module("conv1", nn.Conv2d(inputs, width, 1, bias=False))
    block.add_module("conv2", nn.Conv2d(width, width, 3, stride, padding=1, bias=False))
    block.add_module("conv3", nn.Conv2d(width, EXPANSION * width, 1, bias=False))
    return EXPANSION * width


def _convolutions(block: nn.Module) -> list[nn.Conv2d]:
    found = (block.get_submodule(name) for name in ("conv1", "conv2", "conv3") if hasattr(block, name))
    return [conv for conv in found if isinstance(conv, nn.Conv2d)]
