"""The convolutional networks of the literature on certified training: chains of layers whose bounds are tight."""

from __future__ import annotations

import math

from torch import nn

from inoculate.data.preprocessing import Size, as_sides


def cnn7(classes: int, channels: int, image_size: Size, *, width: int = 64) -> nn.Sequential:
    """The 7-layer network of Shi et al. (2021), used by SABR and MTL-IBP: BatchNorm behind every hidden layer.

    Five 3×3 convolutions, the first two of `width` maps, the others of twice as many, the third of stride 2; a dense
    layer of 512. Its weights start as in section 4.1 of the paper, with which bounds keep their width from layer to
    layer.
    """
    height, width_out = ((side + 1) // 2 for side in as_sides(image_size))
    layers: list[nn.Module] = []
    maps = [channels, width, width, 2 * width, 2 * width, 2 * width]
    for i in range(5):
        layers += [nn.Conv2d(maps[i], maps[i + 1], 3, 2 if i == 2 else 1, 1), nn.BatchNorm2d(maps[i + 1]), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(maps[-1] * height * width_out, 512), nn.BatchNorm1d(512), nn.ReLU()]
    return with_ibp_weights(nn.Sequential(*layers, nn.Linear(512, classes)))


def dm_small(classes: int, channels: int, image_size: Size) -> nn.Sequential:
    """`small` of Gowal et al. (2018): two 4×4 convolutions, a dense layer of 100."""
    return _gowal([(channels, 16, 4, 2), (16, 32, 4, 1)], [100], classes, image_size)


def dm_medium(classes: int, channels: int, image_size: Size) -> nn.Sequential:
    """`medium` of Gowal et al. (2018): four convolutions, two dense layers of 512."""
    return _gowal(
        [(channels, 32, 3, 1), (32, 32, 4, 2), (32, 64, 3, 1), (64, 64, 4, 2)], [512, 512], classes, image_size
    )


def dm_large(classes: int, channels: int, image_size: Size) -> nn.Sequential:
    """`large` of Gowal et al. (2018), DM-large in CROWN-IBP: five 3×3 convolutions, a dense layer of 512."""
    convolutions = [(channels, 64, 3, 1), (64, 64, 3, 1), (64, 128, 3, 2), (128, 128, 3, 1), (128, 128, 3, 1)]
    return _gowal(convolutions, [512], classes, image_size)


def dm_medium_bn(classes: int, channels: int, image_size: Size, *, width: int = 32) -> nn.Sequential:
    """`dm_medium` with BatchNorm behind every hidden layer and the weights of Shi et al. (2021); `width` first maps."""
    plain = _gowal(
        [(channels, width, 3, 1), (width, width, 4, 2), (width, 2 * width, 3, 1), (2 * width, 2 * width, 4, 2)],
        [512, 512], classes, image_size,
    )  # fmt: skip
    layers: list[nn.Module] = []
    for layer in plain:
        layers.append(layer)
        if isinstance(layer, nn.Conv2d):
            layers.append(nn.BatchNorm2d(layer.out_channels))
        elif isinstance(layer, nn.Linear) and layer is not plain[-1]:
            layers.append(nn.BatchNorm1d(layer.out_features))
    return with_ibp_weights(nn.Sequential(*layers))


def with_ibp_weights(network: nn.Sequential) -> nn.Sequential:
    """`network` with normal weights of deviation √(2π) / fan-in and no biases (Shi et al. 2021, equation 9)."""
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=math.sqrt(2 * math.pi) / layer.weight[0].numel())
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def _gowal(
    convolutions: list[tuple[int, int, int, int]], units: list[int], classes: int, image_size: Size
) -> nn.Sequential:
    """Convolutions (in, out, kernel, stride) without padding and dense layers, ReLU behind each but the last."""
    layers: list[nn.Module] = []
    height, width = as_sides(image_size)
    for before, after, kernel, stride in convolutions:
        layers += [nn.Conv2d(before, after, kernel, stride), nn.ReLU()]
        height, width = ((side - kernel) // stride + 1 for side in (height, width))
    sizes = [convolutions[-1][1] * height * width, *units]
    layers.append(nn.Flatten())
    for before, after in zip(sizes, units, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))
