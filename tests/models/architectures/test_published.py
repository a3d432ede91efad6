"""State dicts with the names of published checkpoints give the logits of the published definitions.

The references here are written from the papers and the names alone: functions of a state dict, without modules.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from model_samples import small_data
from torch import Tensor

from inoculate.core.errors import InputError
from inoculate.models.architectures.own import OWN_NAMES, own_architecture
from inoculate.models.build import build_model
from inoculate.models.loading.load import load_model

State = dict[str, Tensor]
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


class Writer:
    """Random weights by name."""

    def __init__(self) -> None:
        self.state: State = {}
        self.generator = torch.Generator().manual_seed(3)

    def conv(self, name: str, inputs: int, outputs: int, kernel: int) -> None:
        scale = (2 / (inputs * kernel * kernel)) ** 0.5
        shape = (outputs, inputs, kernel, kernel)
        self.state[f"{name}.weight"] = torch.randn(shape, generator=self.generator) * scale

    def norm(self, name: str, width: int) -> None:
        for part in ("weight", "running_var"):
            self.state[f"{name}.{part}"] = torch.rand(width, generator=self.generator) + 0.5
        for part in ("bias", "running_mean"):
            self.state[f"{name}.{part}"] = torch.rand(width, generator=self.generator) - 0.5
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(100)

    def linear(self, name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        self.state[f"{name}.weight"] = torch.randn(outputs, inputs, generator=self.generator) / inputs**0.5
        if bias:
            self.state[f"{name}.bias"] = torch.rand(outputs, generator=self.generator)


def norm(state: State, name: str, x: Tensor) -> Tensor:
    parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts, eps=1e-5)


def conv(state: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


# Wide ResNets.


def wide_blocks(depth: int, width: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(group, block, inputs, outputs, stride)."""
    inputs = 16
    for group, outputs in enumerate((16 * width, 32 * width, 64 * width), start=1):
        for block in range((depth - 4) // 6):
            yield group, block, inputs, outputs, 2 if group > 1 and block == 0 else 1
            inputs = outputs


def wide_state(depth: int, width: int, bias: bool = True) -> State:
    out = Writer()
    out.conv("conv1", 3, 16, 3)
    for group, block, inputs, outputs, _ in wide_blocks(depth, width):
        name = f"block{group}.layer.{block}"
        out.norm(f"{name}.bn1", inputs)
        out.conv(f"{name}.conv1", inputs, outputs, 3)
        out.norm(f"{name}.bn2", outputs)
        out.conv(f"{name}.conv2", outputs, outputs, 3)
        if inputs != outputs:
            out.conv(f"{name}.convShortcut", inputs, outputs, 1)
    out.norm("bn1", 64 * width)
    out.linear("fc", 64 * width, 10, bias)
    return out.state


def wide_logits(state: State, x: Tensor, depth: int, width: int) -> Tensor:
    x = conv(state, "conv1", x)
    for group, block, inputs, outputs, stride in wide_blocks(depth, width):
        name = f"block{group}.layer.{block}"
        active = F.relu(norm(state, f"{name}.bn1", x))
        y = F.relu(norm(state, f"{name}.bn2", conv(state, f"{name}.conv1", active, stride)))
        y = conv(state, f"{name}.conv2", y)
        x = y + (x if inputs == outputs else conv(state, f"{name}.convShortcut", active, stride))
    x = F.avg_pool2d(F.relu(norm(state, "bn1", x)), 8)
    return linear(state, "fc", x.view(-1, 64 * width))


def swish_state(depth: int, width: int) -> State:
    out = Writer()
    out.state["mean"] = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
    out.state["std"] = torch.tensor([0.2471, 0.2435, 0.2616]).view(3, 1, 1)
    out.conv("init_conv", 3, 16, 3)
    for group, block, inputs, outputs, _ in wide_blocks(depth, width):
        name = f"layer.{group - 1}.block.{block}"
        out.norm(f"{name}.batchnorm_0", inputs)
        out.conv(f"{name}.conv_0", inputs, outputs, 3)
        out.norm(f"{name}.batchnorm_1", outputs)
        out.conv(f"{name}.conv_1", outputs, outputs, 3)
        if inputs != outputs:
            out.conv(f"{name}.shortcut", inputs, outputs, 1)
    out.norm("batchnorm", 64 * width)
    out.linear("logits", 64 * width, 10)
    return out.state


def swish_logits(state: State, x: Tensor, depth: int, width: int) -> Tensor:
    x = conv(state, "init_conv", (x - state["mean"]) / state["std"])
    for group, block, *_, stride in wide_blocks(depth, width):
        name = f"layer.{group - 1}.block.{block}"
        active = F.silu(norm(state, f"{name}.batchnorm_0", x))
        padded = F.pad(active, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))
        y = F.conv2d(padded, state[f"{name}.conv_0.weight"], stride=stride)
        y = conv(state, f"{name}.conv_1", F.silu(norm(state, f"{name}.batchnorm_1", y)))
        shortcut = state.get(f"{name}.shortcut.weight")
        x = y + (x if shortcut is None else F.conv2d(active, shortcut, stride=stride))
    x = F.avg_pool2d(F.silu(norm(state, "batchnorm", x)), 8)
    return linear(state, "logits", x.flatten(1))


# ResNets with the small stem.


def blocks(counts: tuple[int, ...]) -> Iterator[tuple[str, int, int, int]]:
    """(name, inputs, width, stride) of basic blocks."""
    inputs = 64
    for group, (width, count) in enumerate(zip((64, 128, 256, 512), counts, strict=True), start=1):
        for block in range(count):
            yield f"layer{group}.{block}", inputs, width, 2 if group > 1 and block == 0 else 1
            inputs = width


def resnet_state(counts: tuple[int, ...] = (2, 2, 2, 2)) -> State:
    out = Writer()
    out.conv("conv1", 3, 64, 3)
    out.norm("bn1", 64)
    for name, inputs, width, _ in blocks(counts):
        for number, source in ((1, inputs), (2, width)):
            out.conv(f"{name}.conv{number}", source, width, 3)
            out.norm(f"{name}.bn{number}", width)
        if inputs != width:
            out.conv(f"{name}.shortcut.0", inputs, width, 1)
            out.norm(f"{name}.shortcut.1", width)
    out.linear("linear", 512, 10)
    return out.state


def resnet_logits(state: State, x: Tensor, counts: tuple[int, ...] = (2, 2, 2, 2)) -> Tensor:
    x = F.relu(norm(state, "bn1", conv(state, "conv1", x)))
    for name, inputs, width, stride in blocks(counts):
        y = F.relu(norm(state, f"{name}.bn1", conv(state, f"{name}.conv1", x, stride)))
        y = norm(state, f"{name}.bn2", conv(state, f"{name}.conv2", y))
        if inputs != width:
            x = norm(state, f"{name}.shortcut.1", conv(state, f"{name}.shortcut.0", x, stride))
        x = F.relu(y + x)
    return linear(state, "linear", F.avg_pool2d(x, 4).flatten(1))


def preact_state(final_bn: bool, counts: tuple[int, ...] = (2, 2, 2, 2)) -> State:
    out = Writer()
    out.conv("conv1", 3, 64, 3)
    for name, inputs, width, _ in blocks(counts):
        for number, source in ((1, inputs), (2, width)):
            out.norm(f"{name}.bn{number}", source)
            out.conv(f"{name}.conv{number}", source, width, 3)
        if inputs != width:
            out.conv(f"{name}.shortcut.0", inputs, width, 1)
    if final_bn:
        out.norm("bn", 512)
    out.linear("linear", 512, 10)
    return out.state


def preact_logits(state: State, x: Tensor, raw: bool = False, counts: tuple[int, ...] = (2, 2, 2, 2)) -> Tensor:
    x = conv(state, "conv1", x)
    for name, inputs, width, stride in blocks(counts):
        active = F.relu(norm(state, f"{name}.bn1", x))
        y = conv(state, f"{name}.conv1", active, stride)
        y = conv(state, f"{name}.conv2", F.relu(norm(state, f"{name}.bn2", y)))
        x = y + (x if inputs == width else conv(state, f"{name}.shortcut.0", x if raw else active, stride))
    if "bn.weight" in state:
        x = F.relu(norm(state, "bn", x))
    return linear(state, "linear", F.avg_pool2d(x, 4).flatten(1))


# (architecture asked for, weights, logits of the definition)
CASES: dict[str, tuple[str, Callable[[], State], Callable[[State, Tensor], Tensor]]] = {
    "WRN-28-10": ("wideresnet28_10", lambda: wide_state(28, 10), lambda s, x: wide_logits(s, x, 28, 10)),
    "WRN-16-2": ("wideresnet16_2", lambda: wide_state(16, 2), lambda s, x: wide_logits(s, x, 16, 2)),
    "WRN-16-2 without bias": (
        "wideresnet16_2", lambda: wide_state(16, 2, bias=False), lambda s, x: wide_logits(s, x, 16, 2)
    ),
    "WRN-16-2 with an unused block": (
        "wideresnet16_2",
        lambda: wide_state(16, 2) | {"sub_block1.layer.0.conv1.weight": torch.ones(32, 16, 3, 3)},
        lambda s, x: wide_logits(s, x, 16, 2),
    ),
    "WRN-16-2 Swish": ("wideresnet16_2", lambda: swish_state(16, 2), lambda s, x: swish_logits(s, x, 16, 2)),
    "WRN-16-2 Swish by its name": (
        "wideresnet16_2_swish", lambda: swish_state(16, 2), lambda s, x: swish_logits(s, x, 16, 2)
    ),
    "PreActResNet-18": ("preactresnet18", lambda: preact_state(True), preact_logits),
    "PreActResNet-34": (
        "preactresnet34",
        lambda: preact_state(True, (3, 4, 6, 3)), lambda s, x: preact_logits(s, x, counts=(3, 4, 6, 3)),
    ),
    "PreActResNet-18 of RobustBench": (
        "preactresnet18", lambda: preact_state(False), lambda s, x: preact_logits(s, x, raw=True)
    ),
    "PreActResNet-18 of kuangliu": ("preactresnet18_kuangliu", lambda: preact_state(False), preact_logits),
    "ResNet-18": ("resnet18_cifar", resnet_state, resnet_logits),
    "ResNet-18 by timm's name": ("resnet18", resnet_state, resnet_logits),
    "ResNet-34": (
        "resnet34", lambda: resnet_state((3, 4, 6, 3)), lambda s, x: resnet_logits(s, x, (3, 4, 6, 3))
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if "-34" in case else []) for case in CASES]
)
def test_published_checkpoints_give_the_published_logits(tmp_path: Path, case: str) -> None:
    name, make, logits = CASES[case]
    state = make()
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "w.pt")
    model = load_model(name, small_data(size=32, classes="abcdefghij"), weights=tmp_path / "w.pt")
    with torch.no_grad():
        expected = logits(state, IMAGES[:1])
        difference = (model(IMAGES[:1]) - expected).abs().max() / expected.abs().max()
    assert float(difference) < 1e-5


def test_a_mean_inside_the_network_is_used_once(tmp_path: Path) -> None:
    """As in RobustBench's classes with `mu` and `sigma`, which normalise in their forward."""
    state = preact_state(True)
    held = {"mu": torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1), "sigma": torch.full((1, 3, 1, 1), 0.2)}
    torch.save(state | held, tmp_path / "w.pt")
    model = load_model("preactresnet18", small_data(size=32, classes="abcdefghij"), weights=tmp_path / "w.pt")
    expected = preact_logits(state, (IMAGES[:1] - held["mu"]) / held["sigma"])
    torch.testing.assert_close(model(IMAGES[:1]), expected, rtol=1e-4, atol=1e-5)


def test_another_definition_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(preact_state(False), tmp_path / "w.pt")
    data = small_data(size=32, classes="abcdefghij")
    load_model("preactresnet18", data, weights=tmp_path / "w.pt")
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("is built as 'preactresnet18_nobn'" in message for message in said)
    assert any("give preactresnet18_kuangliu" in message for message in said)
    with pytest.raises(InputError, match="classifier head linear of the file has 10 classes and the network's 4"):
        load_model("preactresnet18", small_data(size=32), weights=tmp_path / "w.pt")


PARAMETERS = {  # as published
    "wideresnet28_10": 36_479_194, "wideresnet34_10": 46_160_474, "preactresnet18": 11_172_170,
    "resnet18_cifar": 11_173_962, "resnet50_cifar": 23_520_842, "wideresnet28_10_swish": 36_479_194,
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name: str) -> None:
    make = own_architecture(name)
    assert make is not None
    with torch.device("meta"):
        assert sum(p.numel() for p in make(10, 3, 32).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", [name for name in OWN_NAMES if "cnn" in name or name == "preactresnet18"])
def test_networks_for_grey_images(name: str) -> None:
    model = build_model(name, classes=7, channels=1, image_size=28).eval()
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 7)
    assert (model[0].mean.item(), model[0].std.item()) == (0.0, 1.0)


NAMES = {
    "trades_cnn": ("feature_extractor.conv4.weight", "classifier.fc3.bias"),
    "madry_cnn": ("conv1.weight", "conv2.bias", "linear1.weight", "linear2.bias"),
    "wong_cnn": ("0.weight", "2.weight", "5.weight", "7.bias"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_the_mnist_networks(name: str) -> None:
    make = own_architecture(name)
    assert make is not None
    assert {*NAMES[name]} <= make(10, 1, 28).state_dict().keys()
    with pytest.raises(InputError, match="has no pretrained weights"):
        build_model(name, classes=10, channels=1, image_size=28, pretrained=True)


@pytest.mark.parametrize(
    "name", ["wideresnet28", "wideresnet29_10", "wideresnet0_1", "preactresnet19", "wideresnet4_2"]
)
def test_depths_that_do_not_exist(name: str) -> None:
    with pytest.raises(InputError, match="is unknown"):
        build_model(name, classes=10)
