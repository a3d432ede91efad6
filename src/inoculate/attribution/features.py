"""Where a network's last features lie in the image: their layer, and how to read them as maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

SMALLEST_MAP = 4  # pixels on a side: a smaller map has hardly any spatial resolution
Layout = Literal["channels first", "channels last", "tokens"]


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """A layer whose output is feature maps in `layout`; tokens are a grid (height, width) behind `prefix` others."""

    layer: nn.Module
    layout: Layout
    grid: tuple[int, int] = (0, 0)
    prefix: int = 0

    def placed(self, features: Tensor) -> Tensor:
        """The layer's output as B×C×H×W."""
        if self.layout == "channels first":
            return features
        if self.layout == "tokens":
            features = features[:, self.prefix :].reshape(len(features), *self.grid, -1)
        return features.permute(0, 3, 1, 2)


def last_maps(model: nn.Module, image: Tensor) -> FeatureMaps | None:
    """The last block, in the order of execution, whose output is feature maps of 4×4 or more; None without any.

    Blocks are the network's children and those of its sequences; where none qualifies, those of its largest child. The
    channels come first or last. A network whose later blocks give tokens has none: its maps are those of the stem. Of a
    vision transformer, whose patch embedding must tell the grid of its tokens, it is the first normalisation of the
    last block, because behind the last attention the class token alone counts.
    """
    tokens = _token_layer(model)
    ended: dict[nn.Module, tuple[int, ...]] = {}  # in order: a dict keeps the order of insertion

    def note(module: nn.Module, _: Any, output: Any) -> None:
        ended.pop(module, None)
        if isinstance(output, Tensor) and output.ndim in (3, 4):
            ended[module] = tuple(output.shape)

    takes_hooks = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    hooks = [module.register_forward_hook(note) for module in takes_hooks]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    if tokens is not None:
        return tokens if _fits(tokens, ended.get(tokens.layer), image) else None
    layouts = {module: layout for module, shape in ended.items() if (layout := _layout(module, shape, image))}
    order, part = list(layouts), model
    while blocks := [block for block in _blocks(part) if _size(block)]:
        if found := [block for block in blocks if block in layouts]:
            last = max(found, key=order.index)
            behind = list(ended)[list(ended).index(last) + 1 :]
            on_tokens = any(block in blocks and len(ended[block]) == 3 for block in behind)
            return None if on_tokens else FeatureMaps(last, layouts[last])
        part = max(blocks, key=_size)
    return None


def _token_layer(model: nn.Module) -> FeatureMaps | None:
    """The layer and grid of a vision transformer in timm's words; None for any other network."""
    for module in model.modules():
        embedding, blocks = getattr(module, "patch_embed", None), getattr(module, "blocks", None)
        grid = getattr(embedding, "grid_size", None)
        if grid is None or not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
            continue
        layer = getattr(blocks[-1], "norm1", None)
        if isinstance(layer, nn.Module) and len(grid) == 2:
            return FeatureMaps(layer, "tokens", tuple(grid), getattr(module, "num_prefix_tokens", 0))
    return None


def _fits(maps: FeatureMaps, shape: tuple[int, ...] | None, image: Tensor) -> bool:
    """Whether the tokens are those of the grid, and the grid lies over the image."""
    height, width = maps.grid
    return (
        shape is not None
        and len(shape) == 3
        and shape[1] == maps.prefix + height * width
        and _is_map(height, width, image)
    )


def _layout(block: nn.Module, shape: tuple[int, ...], image: Tensor) -> Layout | None:
    """How a block's output (4 dimensions) lies; None where it is no map, or where that cannot be told.

    Convolutions alone give channels first. Else a map has the image's proportions; where channels are as many as rows
    and columns, the layers of the block decide.
    """
    if len(shape) != 4:
        return None
    _, one, two, three = shape
    convolutions = any(isinstance(layer, nn.Conv2d | nn.BatchNorm2d) for layer in block.modules())
    dense = any(isinstance(layer, nn.Linear | nn.LayerNorm) for layer in block.modules())
    if convolutions and not dense:
        return "channels first" if min(two, three) >= SMALLEST_MAP else None
    first, last = _is_map(two, three, image), _is_map(one, two, image)
    if first and last:
        return "channels last" if dense and not convolutions else None
    return "channels first" if first else "channels last" if last else None


def _is_map(height: int, width: int, image: Tensor) -> bool:
    """Whether rows and columns are enough, and in the proportions of the image up to one, as strides round."""
    ratio = image.shape[3] / image.shape[2]
    return min(height, width) >= SMALLEST_MAP and (abs(height * ratio - width) <= 1 or abs(width / ratio - height) <= 1)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _blocks(child)
        else:
            yield child


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
