"""What a device computes fastest: the memory format of images and weights, and bf16 arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inoculate.core.modes import frozen
from inoculate.models.acceleration.compiling import eager, uncompiled
from inoculate.models.acceleration.memory_formats import in_memory_format


def set_memory_format(model: nn.Module, image: Tensor) -> torch.memory_format:
    """Give the weights of `model` the memory format that is fastest on images like this one (1×C×H×W); return it.

    The weights are converted before the trial: a single grey image has both formats, so that the format of the feature
    maps follows the weights.
    """
    _convert(model, torch.channels_last)
    with frozen(model):
        found = memory_format_for(model, image)
    _convert(model, found)
    return found


def _convert(model: nn.Module, memory_format: torch.memory_format) -> None:
    """`model.to(memory_format=...)`, which refuses a model with a tensor of five dimensions."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=memory_format)


def memory_format_for(model: nn.Module, image: Tensor) -> torch.memory_format:
    """Channels-last, which is faster, unless `model` refuses images like this one (1×C×H×W) in that format.

    A network that flattens its feature maps with `.view` refuses it.
    """
    try:
        with eager(uncompiled(model)) as network, torch.no_grad():
            network(in_memory_format(image, torch.channels_last))
    except Exception as error:  # any other error will recur, and be reported, in the first pass that counts
        if "view size" in str(error):
            return torch.contiguous_format
    return torch.channels_last


def prefers_bf16(device: torch.device) -> bool:
    """Whether `device` computes faster in bf16 than in fp32: a CPU with AMX, most GPUs.

    Emulated bf16 is several times slower. AVX-512's bf16 instructions gain less than converting to bf16 costs.
    """
    if device.type == "cpu":
        return bool(torch.cpu._is_amx_tile_supported())
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
