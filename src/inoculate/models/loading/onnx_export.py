"""Networks as ONNX files, for where there is no torch."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import torch
from torch import nn

from inoculate.core.errors import InputError, one_line
from inoculate.models.acceleration.cached_convolutions import FixedConv2d
from inoculate.models.acceleration.small_maps import SmallMapConv2d


def export_onnx(model: nn.Module, path: Path, image_shape: tuple[int, int, int]) -> None:
    """Write `model` (images in [0, 1], C×H×W = `image_shape` → logits), normalisation inside, with a free batch size.

    Raises `InputError` if the network cannot be exported.
    """
    plain = copy.deepcopy(model).cpu().eval()
    for module in plain.modules():
        if type(module) in (SmallMapConv2d, FixedConv2d):  # shortcuts of ours that ONNX does not know
            module.__class__ = nn.Conv2d
    free = {"images": {0: "batch"}, "logits": {0: "batch"}}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the newer exporter needs one package more
            torch.onnx.export(
                plain, (torch.rand(2, *image_shape),), str(path), input_names=["images"], output_names=["logits"],
                dynamic_axes=free, dynamo=False,
            )  # fmt: skip
    except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
        raise InputError(f"the network cannot be exported to ONNX ({one_line(error)}): leave --onnx out") from error
