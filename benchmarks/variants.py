"""After export: three networks and what deployment makes of them, each variant under AutoAttack.

`python -m benchmarks.variants DATA_ROOT [IMAGES]`. Ours is a small CNN after adversarial training on MNIST (L∞ 0.1),
torchvision's a ResNet-18 after the same on CIFAR10 (2/255), and the foreign one a network that is written as an ONNX
graph node by node: channels last, a fixed batch of one, as other frameworks write them. Its weights are trained on
digits.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from benchmarks.common import launch, machine
from inoculate import (
    Dataset,
    Threat,
    TrainingOptions,
    VariantOptions,
    evaluate_variants,
    load_data,
    train,
)

VARIANTS = ("fp32", "bf16", "onnx", "int8", "pruned:0.5")
SIDE = 12  # of the digits' images


def main() -> None:
    """Train, export and attack, and print a table for each network."""
    root, images = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200
    print(f"{machine()}; {images} test images, AutoAttack; the worst over its own examples and those of the others")
    ours = trained("small_cnn", "mnist", root, Threat("linf", 0.1), limit=20_000, size=28)
    show("ours", ours, load_data("mnist", "test", data_root=root, image_size=28), Threat("linf", 0.1), images)
    theirs = trained("torchvision:resnet18", "cifar10", root, Threat("linf", 2 / 255), limit=15_000, size=32)
    show("torchvision", theirs, load_data("cifar10", "test", data_root=root), Threat("linf", 2 / 255), images)
    with TemporaryDirectory() as folder:
        path = foreign(Path(folder) / "foreign.onnx")
        show("foreign ONNX", str(path), load_data("digits", "test", image_size=SIDE), Threat("linf", 0.05), images)


def trained(name: str, data: str, root: str, threat: Threat, *, limit: int, size: int) -> nn.Module:
    """A network after a few passes of cheap adversarial training."""
    options = TrainingOptions(data_root=root, limit=limit, image_size=size, batch_size=128)
    return train(name, data, "fgsm_rs", threat, epochs=3, options=options).model


def foreign(path: Path) -> Path:
    """Train a network of two layers on digits and write it as a channels-last graph for one image."""
    from onnx import TensorProto, helper, numpy_helper, save

    torch.manual_seed(0)
    data = load_data("digits", "train", image_size=SIDE)
    images, labels = data.images / 255, data.labels
    convolution, head = nn.Conv2d(images.shape[1], 24, 3, stride=2), nn.Linear(24 * 25, len(data.classes))
    net = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), head)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(40):
        for rows in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
    constants = {
        "K": convolution.weight, "k": convolution.bias, "W": head.weight.T.contiguous(), "w": head.bias,
    }  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["images"], ["x"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["x", "K", "k"], ["c"], strides=[2, 2]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("Flatten", ["r"], ["f"]),
            helper.make_node("MatMul", ["f", "W"], ["m"]),
            helper.make_node("Add", ["m", "w"], ["y"]),
        ],
        "foreign",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, SIDE, SIDE, images.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, len(data.classes)])],
        [numpy_helper.from_array(value.detach().numpy(), name) for name, value in constants.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    return path


def show(title: str, model: nn.Module | str, data: Dataset, threat: Threat, images: int) -> None:
    """Print clean accuracy, accuracy under AutoAttack, and the checks."""
    calibration = data.subset(range(len(data) - 200, len(data)))
    options = VariantOptions(calibration=calibration, name=title)
    found = evaluate_variants(model, data.limit(images, seed=0), VARIANTS, threats=[threat], options=options)
    clean, attacked = found.accuracies().values()
    print(f"\n| {title}, eps {threat.eps:.4g} | {' | '.join(VARIANTS)} |\n{'|---' * (len(VARIANTS) + 1)}|")
    print("| clean | " + " | ".join(f"{clean[name]:.1%}" for name in VARIANTS) + " |")
    print("| AutoAttack | " + " | ".join(f"{attacked[name]:.1%}" for name in VARIANTS) + " |")
    own = {row.arm: row.accuracy for row in found if row.protocol == "own-attack"}
    print("| AutoAttack, its own examples alone | " + " | ".join(f"{own[name]:.1%}" for name in VARIANTS) + " |\n")
    for check in found.checks:
        if not check.passed:
            print(f"- {check.name}: {check.message}")


if __name__ == "__main__":
    launch(main)
