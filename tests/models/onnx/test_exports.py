"""Exports of torchvision's and timm's architectures: as ONNX files they are as robust as the torch originals."""

from __future__ import annotations

import time
import warnings
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.data.load import load_data
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.models.acceleration.fast import CraftingCopy, fast
from inoculate.models.loading.load import load_model
from inoculate.models.loading.onnx import OnnxModel

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'inoculate[onnx]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inoculate[onnx]'")

CLASSES, IMAGES = 10, 200
TOO_LARGE = {"timm:swin_tiny_patch4_window7_224"}  # for AutoAttack on two cores within an hour
SURVIVORS = 0.05  # of the images, by a linear estimate: the attack's longest part runs on those that are left
# library:name, side of the images, opset, batch size of the file (None: free), and whether it takes B×H×W×C.
EXPORTS = [
    ("timm:test_vit", 32, 17, None, False),
    ("timm:test_convnext3", 32, 19, None, True),
    ("timm:test_efficientnet_gn", 32, 13, None, False),
    ("timm:test_resnet", 32, 14, 1, False),
    ("timm:test_mambaout", 32, 20, None, False),
    ("timm:test_efficientnet", 32, 15, None, False),
    ("torchvision:shufflenet_v2_x0_5", 32, 16, None, False),
    ("timm:test_byobnet", 32, 18, 8, False),
    ("timm:test_vit2", 32, 15, 1, False),
    ("timm:lcnet_035", 32, 13, None, False),
    ("timm:test_nfnet", 32, 16, None, False),
    ("timm:mobilenetv4_conv_small_050", 32, 14, None, False),
    ("timm:test_coatnet", 64, 18, None, False),
    ("timm:vit_tiny_patch16_224", 32, 17, None, True),
    ("torchvision:mnasnet0_5", 32, 19, 8, False),
    ("timm:resnet10t", 32, 20, None, False),
    ("timm:levit_128s", 64, 16, None, False),
    ("timm:ghostnet_050", 32, 14, None, False),
    ("timm:xcit_nano_12_p16_224", 64, 18, None, False),
    ("timm:mobilevit_xxs", 64, 17, None, False),
    ("timm:swin_tiny_patch4_window7_224", 64, 19, None, False),
]  # fmt: skip
ATTACKED = [each for each in EXPORTS if each[0] not in TOO_LARGE]


class ChannelsLast(nn.Module):
    """A network that takes B×H×W×C."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.permute(0, 3, 1, 2))


class Standardised(nn.Module):
    """Outputs with mean 0 and spread 1 over some images: an untrained network gives all images nearly the same."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", logits.mean(dim=0))
        self.register_buffer("std", logits.std(dim=0).clamp_min(1e-6))  # an output may be dead

    def forward(self, logits: Tensor) -> Tensor:
        return (logits - self.mean) / self.std


def network(spec: str, side: int, images: Tensor) -> nn.Module:
    """Random weights, with BatchNorm's statistics and the outputs' scale from these images."""
    import timm
    import torchvision

    library, name = spec.split(":")
    torch.manual_seed(0)
    if library == "torchvision":
        made = torchvision.models.get_model(name, num_classes=CLASSES)
    else:
        try:
            made = timm.create_model(name, num_classes=CLASSES, img_size=side)
        except TypeError:  # it takes any size
            made = timm.create_model(name, num_classes=CLASSES)
    for module in made.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    with torch.no_grad():
        for start in range(0, len(images), 50):
            made.train()(images[start : start + 50])
        made.eval()
        return nn.Sequential(OrderedDict(network=made, outputs=Standardised(made(images)))).eval()


def export(model: nn.Module, path: Path, side: int, opset: int, batch: int | None, last: bool) -> None:
    x = torch.rand(batch or 2, 3, side, side)
    free = {"images": {0: "batch"}, "logits": {0: "batch"}} if batch is None else None
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            ChannelsLast(model) if last else model, (x.permute(0, 2, 3, 1) if last else x,), str(path),
            input_names=["images"], output_names=["logits"], dynamic_axes=free, opset_version=opset, dynamo=False,
        )  # fmt: skip


def small_eps(model: nn.Module, x: Tensor) -> tuple[Tensor, float]:
    """The model's predictions, and the eps at which, were it linear, so few of them would survive."""
    x = x.clone().requires_grad_()
    logits = model(x)
    best = logits.topk(2).values
    margin = best[:, 0] - best[:, 1]
    (gradient,) = torch.autograd.grad(margin.sum(), x)
    needed = margin.detach() / gradient.flatten(1).abs().sum(dim=1)
    return logits.argmax(dim=1), float(needed.quantile(1 - SURVIVORS))


def digits(side: int) -> Dataset:
    return load_data("digits", split="all", image_size=side, channels=3).limit(IMAGES, seed=0)


def _survivors(model: nn.Module, data: Dataset, threat: Threat) -> Tensor:
    found = evaluate(model, data, ["autoattack"], [threat], options=EvaluationOptions(checks=False))
    return found.per_image[found.rows[-1]].right


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "side", "opset", "batch", "last"), EXPORTS, ids=[each[0] for each in EXPORTS])
def test_gradients_of_the_original(
    spec: str, side: int, opset: int, batch: int | None, last: bool, tmp_path: Path
) -> None:
    x = digits(side).images[:50].float() / 255
    original = network(spec, side, x)
    export(original, tmp_path / "model.onnx", side, opset, batch, last)
    model = load_model(tmp_path / "model.onnx")
    model(x)
    copy = fast(model)
    assert isinstance(copy, CraftingCopy)
    assert copy.verify(x)
    found = [input_gradient(each, x[:10]) for each in (model, copy, original)]
    exact = input_gradient(original.double(), x[:10].double())
    # The middle image: a ReLU near 0 turns rounding into another gradient.
    errors = [((each - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).median() for each in found]
    print(f"\n{spec}: {model.way}, {model.difference:.0e}, gradients {[f'{each:.0e}' for each in errors]}", flush=True)
    assert max(errors) < 1e-3


def input_gradient(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    logits = model(x)
    return torch.autograd.grad((logits * torch.arange(CLASSES)).sum(), x)[0]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("spec", "side", "opset", "batch", "last"), ATTACKED, ids=[each[0] for each in ATTACKED])
def test_as_robust_as_the_original(
    spec: str, side: int, opset: int, batch: int | None, last: bool, tmp_path: Path
) -> None:
    data = digits(side)
    x = data.images.float() / 255
    original = network(spec, side, x)
    y, eps = small_eps(original, x)
    export(original, tmp_path / "model.onnx", side, opset, batch, last)
    data = replace(data, labels=y)
    model = load_model(tmp_path / "model.onnx", data)
    assert isinstance(model, OnnxModel)
    counts, clocks = [], []
    for each in (original, model):
        start = time.process_time()
        counts.append(_survivors(each, data, Threat(eps=eps)))
        clocks.append(time.process_time() - start)
    differ = int((counts[0] != counts[1]).sum())
    print(
        f"\n| {spec} | {side} | {opset} | {batch or 'free'} | {'NHWC' if last else 'NCHW'} | {model.way} | "
        f"{model.difference:.0e} | {eps:.2e} | {int(counts[0].sum())} | {int(counts[1].sum())} | {differ} | "
        f"{clocks[0]:.0f} | {clocks[1]:.0f} |",
        flush=True,
    )
    assert abs(int(counts[0].sum()) - int(counts[1].sum())) <= 1


def test_every_opset_is_exported() -> None:
    assert {opset for _, _, opset, _, _ in ATTACKED} == set(range(13, 21))
    assert len({spec for spec, *_ in ATTACKED}) >= 12
