"""A broken int8 file of somebody else's network is flagged, and an honest one is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from onnx_samples import Sample
from torch import Tensor, nn

import inoculate as ino
from inoculate.core.extras import is_installed
from inoculate.data.dataset import Dataset
from inoculate.models.export.files import write_int8

pytestmark = pytest.mark.skipif(not is_installed("onnxruntime"), reason="pip install 'inoculate[onnx]'")
CLASSES, IMAGES, SIDE = 5, 40, 32


def some_images(count: int) -> Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255
    return nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear").round().to(torch.uint8)


def torchvision_network(folder: Path) -> nn.Module:
    """A network of torchvision's with random weights, and a bias that spreads its predictions over the classes."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=CLASSES).eval()
    with torch.no_grad():
        network.fc.bias -= network(some_images(64) / 255).mean(dim=0)
    return network


def foreign_onnx(folder: Path) -> nn.Module:
    """A file that no export of ours wrote: nodes by hand, channels last, names of its own."""
    from onnx import save

    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    stride = {"strides": [2, 2], "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        ("Transpose", ["x"], ["planes"], {"perm": [0, 3, 1, 2]}),
        ("Conv", ["planes", "w1"], ["c1"], stride),
        ("Relu", ["c1"], ["r1"], {}),
        ("Conv", ["r1", "w2"], ["c2"], stride),
        ("Relu", ["c2"], ["r2"], {}),
        ("Flatten", ["r2"], ["flat"], {"axis": 1}),
        ("Gemm", ["flat", "w3"], ["y"], {"transB": 1}),
    ]
    constants = {"w1": weights(16, 3, 3, 3), "w2": weights(16, 16, 3, 3), "w3": weights(CLASSES, 16 * 64)}
    path = folder / "foreign.onnx"
    proto = Sample(nodes, constants, ("n", SIDE, SIDE, 3), opset=13).proto()
    for number, node in enumerate(proto.graph.node):
        node.name = f"node {number}"
    save(proto, path)
    return ino.load_model(str(path))


def own_predictions(network: nn.Module) -> Dataset:
    """Images with the network's own predictions as labels: those of which it is surest, of many."""
    images = some_images(160)
    with torch.no_grad():
        logits: Tensor = network(images / 255)
    first, second = logits.topk(2, dim=1).values.unbind(1)
    surest = (first - second).argsort(descending=True)[:IMAGES]
    labels, names = logits.argmax(1)[surest], [f"class {number}" for number in range(CLASSES)]
    assert len(labels.unique()) > 1
    return Dataset.from_tensors(images[surest], labels, names)


@pytest.mark.parametrize("make", [torchvision_network, foreign_onnx], ids=lambda each: each.__name__)
def test_a_broken_int8_file_of_a_foreign_network_is_flagged(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Calibrated on images that are far too dark, it cuts activations off."""
    network = make(tmp_path)
    data = own_predictions(network)
    good, broken = tmp_path / "good.onnx", tmp_path / "broken.onnx"
    write_int8(network, good, data.images[:16] / 255)
    write_int8(network, broken, data.images[:16] / 255 * 0.02)
    names = ["fp32", str(good), str(broken)]
    found = ino.evaluate_variants(network, data, names, {"fgsm": ino.FGSM()}, [ino.Threat("linf", 1 / 255)])
    clean = found.accuracies()["clean"]
    assert clean["fp32"] == 1
    assert clean[str(good)] > 0.96
    assert clean[str(broken)] < 0.9
    (check,) = [each for each in found.checks if each.name == "variants differ: clean"]
    assert check.passed is False
    assert str(broken) in check.message
    assert not found.require("checks")
    honest = ino.evaluate_variants(network, data, names[:2], {"fgsm": ino.FGSM()}, [ino.Threat("linf", 1 / 255)])
    (check,) = [each for each in honest.checks if each.name == "variants differ: clean"]
    assert check.passed is not False
