"""Which images a model needs, and that they are read so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from inoculate.core.errors import InputError
from inoculate.data.dataset import Dataset
from inoculate.data.load import load_data
from inoculate.data.preprocessing import Preprocessing
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.inputs import resolve_data
from inoculate.models.build import build_model
from inoculate.models.loading.checkpoints import DESCRIPTION, ModelSpec, save_model
from inoculate.models.loading.inputs import expected_preprocessing, fit_channels, needed_channels
from inoculate.models.loading.load import as_module, load_model
from inoculate.models.normalize import IMAGENET_MEAN, IMAGENET_STD, normalized

CLEAN = EvaluationOptions(checks=False)
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")


def images(channels: int, size: int = 8) -> Dataset:
    pixels = torch.randint(0, 256, (8, channels, size, size), dtype=torch.uint8)
    return Dataset.from_tensors(pixels, torch.arange(8) % 2, ("dark", "light"))


def convolutions(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


class Brightness(nn.Module):
    """Right on every image of the folders below: class 1 is light. The first convolution wants `channels`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)
        nn.init.constant_(self.conv.weight, 1 / channels)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        mean = self.conv(x).mean((1, 2, 3)) - 0.5
        return torch.stack([-mean, mean], dim=1)


@pytest.fixture
def shades(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A folder of dark and light images of a mode."""
    monkeypatch.setenv("INOCULATE_CACHE", str(tmp_path / "cache"))

    def make(mode: str) -> Path:
        for name, value in (("dark", 60), ("light", 190)):
            (tmp_path / mode / name).mkdir(parents=True)
            for number in range(20):
                colour = (value + number % 7, value, value - 30)
                image = Image.new("RGB", (12, 8), colour).convert(mode)
                image.save(tmp_path / mode / name / f"{number}.png")
        return tmp_path / mode

    return make


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "module": Brightness,
    "behind a normalisation, which takes both": lambda c: normalized(Brightness(c), (0.0,) * c, (1.0,) * c),
    "scripted": lambda c: as_module(torch.jit.script(Brightness(c))),
    "traced": lambda c: as_module(torch.jit.trace(Brightness(c).eval(), torch.rand(2, c, 8, 8))),
    "function": lambda c: as_module(lambda x: Brightness(c)(x)),
}


@pytest.mark.parametrize("form", MODELS)
@pytest.mark.parametrize(("mode", "own", "needed"), [("L", 1, 3), ("RGB", 3, 1), ("L", 1, 1), ("RGB", 3, 3)])
def test_a_folder_is_read_with_the_channels_that_the_model_needs(
    form: str, mode: str, own: int, needed: int, shades: Callable[[str], Path]
) -> None:
    found = evaluate(MODELS[form](needed), shades(mode), attacks=["fgsm"], options=CLEAN)
    assert found[0].accuracy == 1.0
    kinds = {1: "grey", 3: "RGB"}
    told = (f"{kinds[own]} images were read as {kinds[needed]}, for the model has {needed} input channel(s)",)
    assert found.notes == (told if own != needed else ())


def test_images_that_are_given_are_left_as_they_are() -> None:
    with pytest.raises(InputError, match=r"the model does not take 1×8×8 images.*--channels.*load_data\(…, image_size"):
        evaluate(convolutions(3), images(1))
    assert fit_channels(images(1), convolutions(3)).channels == 3
    assert fit_channels(images(1), convolutions(3), Preprocessing(channels=1)).channels == 1, "unless it is declared"


def test_what_the_first_convolution_says_is_tried() -> None:
    class FromGrey(nn.Module):
        """Makes three channels itself."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = torchvision.models.resnet18(num_classes=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.expand(-1, 3, -1, -1)) if x.shape[1] == 1 else self.inner(x[:, :2])

    assert needed_channels(FromGrey(), images(1)) == 1
    assert needed_channels(torchvision.models.resnet18(num_classes=2), images(1, 32)) == 3
    assert needed_channels(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), images(1)) == 1
    assert needed_channels(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), images(3)) == 1
    assert needed_channels(nn.Linear(7, 2), images(3)) == 3, "takes neither: the error comes later"
    assert needed_channels(nn.Sequential(nn.Conv2d(4, 8, 3)), images(3)) == 3


def test_finding_out_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), convolutions(3)).train()
    data, before = images(1), {n: t.clone() for n, t in model.state_dict().items()}
    state = torch.get_rng_state()
    assert needed_channels(model, data) == 3
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("name", "channels"), [("resnet10t", 3), ("resnet10t", 1), ("mobilenetv3_small_050", 3)])
def test_weights_of_a_named_network_say_their_channels(name: str, channels: int, tmp_path: Path) -> None:
    model = build_model(name, classes=2, channels=channels)
    save_file({key: value.clone() for key, value in model.state_dict().items()}, tmp_path / "w.safetensors")
    assert expected_preprocessing(name, weights=tmp_path / "w.safetensors") == Preprocessing(channels=channels)
    assert expected_preprocessing("a.py:f", normalize="imagenet").channels == 3
    assert expected_preprocessing("a.py:f", normalize="0.5/0.5").channels is None


def test_a_trained_folder_says_how_its_images_were_read(tmp_path: Path) -> None:
    spec, reading = ModelSpec("small_cnn", ("a", "b"), 3, (16, 24)), Preprocessing(crop=0.8, value_range=(0, 4095))
    save_model(tmp_path, spec.build(), spec, reading=reading.spec)
    assert expected_preprocessing(str(tmp_path)) == Preprocessing((16, 24), 3, crop=0.8, value_range=(0, 4095))
    assert load_model(tmp_path)(torch.rand(2, 3, 16, 24)).shape == (2, 2)
    assert json.loads((tmp_path / DESCRIPTION).read_text())["reading"] == {"crop": 0.8, "value_range": [0, 4095]}


@pytest.mark.parametrize("name", ["resnet10t", "small_cnn", "vit_tiny_patch16_224"])
def test_rectangular_images(name: str) -> None:
    pixels = torch.randint(0, 256, (4, 3, 32, 48), dtype=torch.uint8)
    data = Dataset.from_tensors(pixels, torch.arange(4) % 2, ("a", "b"))
    model = load_model(name, data)
    assert model(data.images / 255).shape == (4, 2)
    assert ModelSpec.fitting(name, data).image_size == (32, 48)


def test_pretrained_names_are_read_by_their_own_transform(shades: Callable[[str], Path]) -> None:
    folder = shades("L")
    needed = expected_preprocessing("vit_tiny_patch16_224", pretrained=True)
    data = load_data(folder, "all", preprocessing=needed)
    assert data.images.shape[1:] == (3, 224, 224)
    assert data.notes == (
        "grey images were read as RGB",
        "images were read as asked for, or as the model's weights need: shorter side resized to 248 (bicubic), centre "
        "cropped to 224×224 pixels, RGB",
    )
    assert resolve_data(folder, "resnet10t").images.shape[1:] == (1, 8, 8), "an untrained one takes them as they are"


def test_normalisations_and_grey_images(shades: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torchvision\ndef net(): return torchvision.models.resnet18(num_classes=2)\n"
    )
    needed = expected_preprocessing(f"{tmp_path}/net.py:net", normalize="imagenet")
    data = load_data(shades("L"), "test", preprocessing=needed)
    model = load_model(f"{tmp_path}/net.py:net", data, normalize=(IMAGENET_MEAN, IMAGENET_STD))
    assert fit_channels(data, model) is data
    assert resolve_data(tmp_path / "L", f"{tmp_path}/net.py:net").channels == 3
