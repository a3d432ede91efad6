"""Networks of torchvision by name, random heads, and models of the hub."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from model_samples import small_data
from torch import nn

from inoculate.core.errors import InputError
from inoculate.models.architectures import libraries
from inoculate.models.build import build_model
from inoculate.models.loading.load import load_model
from inoculate.models.loading.specs import brings_weights, expected_size, kind_of


@pytest.mark.parametrize(
    ("name", "size"),
    [("squeezenet1_0", 32), ("shufflenet_v2_x0_5", 32), ("alexnet", 64), ("mobilenet_v3_small", 32),
     ("torchvision:resnet18", 32), ("googlenet", 32)],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 3])
def test_torchvision(name: str, size: int, channels: int) -> None:
    model = build_model(name, classes=7, channels=channels, image_size=size).eval()
    assert model(torch.rand(2, channels, size, size)).shape == (2, 7)
    mean = (0.485, 0.456, 0.406) if channels == 3 else (0.449,)
    assert model[0].mean.flatten().tolist() == pytest.approx(mean, abs=1e-3)


def test_torchvisions_own_weights_load(tmp_path: Path) -> None:
    from torchvision import models

    for name, spec in (("squeezenet1_0", "squeezenet1_0"), ("resnet18", "torchvision:resnet18")):
        expected = models.get_model(name, num_classes=4).eval()
        torch.save(expected.state_dict(), tmp_path / "w.pth")
        model = load_model(spec, small_data(size=32), weights=tmp_path / "w.pth", normalize="0/1")
        x = torch.rand(2, 3, 32, 32)
        torch.testing.assert_close(model(x), expected(x))
        assert kind_of(spec) == "name"
        assert not brings_weights(spec)


def test_torchvisions_weights_for_timms_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from torchvision import models

    expected = models.mobilenet_v3_small(num_classes=4).eval()
    torch.save(expected.state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match="do not fit"):
        load_model("mobilenetv3_small_100", small_data(size=32), weights=tmp_path / "w.pth")
    expected = models.efficientnet_b0(num_classes=4).eval()
    torch.save(expected.state_dict(), tmp_path / "w.pth")
    model = load_model("efficientnet_b0", small_data(size=32), weights=tmp_path / "w.pth", normalize="0/1")
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model(x), expected(x))
    assert "is built as 'torchvision:efficientnet_b0'" in caplog.messages[0]


def test_auxiliary_outputs_of_torchvision_are_left_out(tmp_path: Path) -> None:
    from torchvision import models

    state = models.googlenet(num_classes=4, aux_logits=True, init_weights=False).state_dict()
    torch.save(state, tmp_path / "w.pth")
    model = load_model("googlenet", small_data(size=32), weights=tmp_path / "w.pth")
    assert torch.equal(model[1].fc.weight, state["fc.weight"])


@pytest.mark.parametrize(
    ("name", "message"),
    [("torchvision:resnet81", "did you mean 'torchvision:resnet"), ("squeezenet1_9", "did you mean 'squeezenet1_"),
     ("torchvision:fasterrcnn_resnet50_fpn", "is unknown")],
)  # fmt: skip
def test_names_that_torchvision_does_not_have(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_model(name, classes=3)


def test_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inoculate.models.build.torchvision_names", lambda: ())
    monkeypatch.setattr(libraries, "torchvision_names", lambda: ())
    with pytest.raises(InputError, match="pip install torchvision"):
        build_model("torchvision:resnet18", classes=3)
    with pytest.raises(InputError, match="pip install torchvision"):
        build_model("squeezenet1_0", classes=3)


@pytest.mark.parametrize("classes", [3, 1000])
def test_a_random_head_is_said(classes: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

    make, state = timm.create_model, squeezenet1_1().state_dict()
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: make(name, **options))
    monkeypatch.setattr(SqueezeNet1_1_Weights, "get_state_dict", lambda *_, **__: state)
    for name in ("test_resnet", "squeezenet1_1"):
        caplog.clear()
        model = build_model(name, classes=classes, image_size=64, pretrained=True)
        said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert [f"'{name}' has a random head for 3 classes" in message for message in said] == [True] * (classes == 3)
    assert torch.equal(model[1].features[0].weight, state["features.0.weight"])


def test_a_vits_own_mean_and_std() -> None:
    model = build_model("vit_tiny_patch16_224", classes=3, image_size=32)
    assert model[0].mean.flatten().tolist() == [0.5] * 3
    assert model[0].std.flatten().tolist() == [0.5] * 3


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for spec in ("hf-hub:timm/no_such_model_of_anyone", "hf:nobody/no_such_model_of_anyone", "hf:not/a/name/at/all"):
        with pytest.raises(InputError, match="cannot be downloaded") as caught:
            load_model(spec, small_data(size=32))
        assert "\n" not in str(caught.value)
        assert kind_of(spec) == "hub"
        assert brings_weights(spec)


@pytest.fixture
def vit(tmp_path: Path) -> tuple[str, nn.Module]:
    """A tiny ViT that transformers wrote."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        num_labels=4,
    )  # fmt: skip
    network = transformers.ViTForImageClassification(config).eval()
    network.save_pretrained(tmp_path / "vit")
    processor = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 32, "width": 32}, "resample": 3}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(processor))
    return f"hf:{tmp_path / 'vit'}", network


def test_a_folder_of_transformers(vit: tuple[str, Any]) -> None:
    spec, network = vit
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(pixel_values=(x - 0.5) / 0.25).logits
    model = load_model(spec, small_data(size=32))
    torch.testing.assert_close(model(x), expected)
    assert expected_size(spec) == (32, 3)
    torch.testing.assert_close(load_model(spec, normalize="0.5/0.25")(x), expected)


def test_folders_of_transformers_that_are_refused(vit: tuple[str, Any]) -> None:
    spec, network = vit
    folder = Path(spec.removeprefix("hf:"))
    network.vit.save_pretrained(folder)  # without a head
    with pytest.raises(InputError, match=r"no weights for 2 of its tensors \(classifier"):
        load_model(spec)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded as an image classifier") as caught:
        load_model(spec)
    assert "\n" not in str(caught.value)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(InputError, match="cannot be loaded as an image classifier"):
        load_model(spec)


def test_without_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'inoculate\[transformers\]'"):
        load_model(f"hf:{tmp_path}")
