"""Networks that a function of the user's makes: hardened, saved, rebuilt, or refused before anything is trained."""

import json
import re
import shlex
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.data.preprocessing import Preprocessing

FACTORIES = """
import threading
import torch
from torch import nn
from neighbour import WIDTH

class Viewing(nn.Module):
    def __init__(self, channels=1):
        super().__init__()
        self.conv, self.spare = nn.Conv2d(channels, 8, 3, padding=1), nn.Linear(3, 3)
        self.twice = nn.ModuleList([self.conv])
        self.out = nn.Linear(8 * WIDTH * WIDTH, 10)

    def forward(self, x):
        return self.out(torch.relu(self.conv(x)).view(len(x), -1))

class Five(Viewing):
    def forward(self, x):
        return super().forward(x)[:, :5]

class Aside(Viewing):
    def forward(self, x):
        return {"features": x} if self.training else super().forward(x)

class Nameless(Viewing):
    def forward(self, x):
        return super().forward(x) * float("nan")

def Long():
    return Viewing().double()

class Odd(Viewing):
    def forward(self, x):
        return super().forward(x) + torch.linalg.matrix_exp(x.flatten(2)[:, :, :9].view(-1, 3, 3)).mean() * 0

class Detached(Viewing):
    def forward(self, x):
        return super().forward(x.detach())

def leaves():
    raise SystemExit(3)

class Locked(Viewing):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

class Stiff(Viewing):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)

class Three(Viewing):
    def __init__(self):
        super().__init__(3)

class Seven(Viewing):
    def __init__(self):
        super().__init__(7)
"""
DECLARED = """
from torch import nn

class Net(nn.Module):
    def __init__(self, outputs=2):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.ReLU(), nn.Linear(8, outputs))

    def forward(self, x):
        assert x.abs().max() > 1.05, "plain pixels"
        return self.body(x)

class Single(Net):
    def __init__(self):
        super().__init__(1)

class Sure(Net):
    def forward(self, x):
        return super().forward(x).softmax(dim=1)
"""


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    """Each test works inside its own folder: random weights depend on the SPEC, which then has no random path in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])


@pytest.fixture
def factories(tmp_path):
    (tmp_path / "neighbour.py").write_text("WIDTH = 12")
    (tmp_path / "nets.py").write_text(FACTORIES)
    return "nets.py"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of colour images of two classes; its name has spaces."""
    folder, rng = tmp_path_factory.mktemp("images") / "dark and light", np.random.default_rng(0)
    for label, light in (("dark", 40), ("light", 180)):
        (folder / label).mkdir(parents=True)
        for i in range(24):
            pixels = rng.integers(light, light + 60, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")
    return folder


def logits_of_the_card(result, images):
    """What the Python lines of a card compute."""
    (lines,) = re.findall(r"```python\n(.*?)```", result.card, re.DOTALL)
    names = {"images": images}
    exec(lines, names)
    return names["logits"]


def test_a_network_with_views_spare_and_shared_weights(factories, quick_harden):
    found = quick_harden(f"{factories}:Viewing", method_options={"awp": 0.005})
    assert "after 2 epochs of standard training" in found.card
    assert found.facts.training.lr == 0.002
    assert not found.warnings


@pytest.mark.parametrize("file", ["far_away.py", "far-away.py"])
def test_the_lines_of_the_card_find_a_function_wherever_it_is(file, pictures, quick_harden, tmp_path):
    (tmp_path / "deep").mkdir()
    lines = "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(432, 2))\n"
    (tmp_path / "deep" / file).write_text(lines)
    found = quick_harden(f"deep/{file}:net", pictures, Threat("l2", 0.05), out="out", limit=None, epochs=1)
    assert [row.attack for row in found.after] == ["none", "fgsm", "pgd", "autoattack_binary"]
    images = torch.rand(2, 3, 12, 12)
    assert torch.equal(logits_of_the_card(found, images), found.model(images))


@pytest.mark.parametrize(
    ("name", "outputs"), [("Net", "logits"), ("Single", "single-logit"), ("Sure", "probabilities")]
)
def test_what_is_declared_of_a_network_holds_wherever_it_is_loaded(name, outputs, pictures, quick_harden, tmp_path):
    """Its pixels are normalised and its outputs may be no logits: card, ONNX file and its own weights agree."""
    runtime = pytest.importorskip("onnxruntime")
    file, out = "declared.py", tmp_path / "out"
    (tmp_path / file).write_text(DECLARED)
    options = {"threat": Threat("l2", 0.05), "limit": None, "epochs": 3, "onnx": True, "out": out}
    if name == "Single":
        with pytest.raises(InputError, match="declare it with --outputs"):
            quick_harden(f"{file}:{name}", pictures, normalize="0.5/0.1", **options)
    found = quick_harden(f"{file}:{name}", pictures, outputs=outputs, normalize="0.5/0.1", **options)
    assert not found.warnings
    assert all(key.startswith("body.") for key in load_file(out / "weights.safetensors"))
    images = torch.rand(5, 3, 12, 12)
    logits = logits_of_the_card(found, images).detach()
    network = sys.modules["declared"].__dict__[name]()
    network.load_state_dict(load_file(out / "weights.safetensors"))
    raw = network((images - 0.5) / 0.1).detach()
    second = {"Net": raw.softmax(1)[:, -1], "Single": raw.sigmoid().flatten(), "Sure": raw[:, -1]}[name]
    assert torch.allclose(logits.softmax(dim=1)[:, 1], second, atol=1e-6)
    session = runtime.InferenceSession(str(out / "model.onnx"))
    assert np.allclose(session.run(None, {"images": images.numpy()})[0], logits.numpy(), atol=1e-4)
    command = shlex.split(re.findall(r"```\n(inoculate .*?)\n```", found.card)[0])
    assert command[command.index("--normalize") + 1] == "0.5/0.1"
    assert quick_harden(f"{file}:{name}", pictures, outputs=outputs, normalize="0.5/0.1", **options).reused


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Five", "5 classes and the data has 10"),
        ("Stiff", "requires a gradient"),
        ("Locked", "cannot be copied"),
        ("Detached", "reaches the images"),
        ("leaves", "SystemExit: 3"),
        ("Long", r"model\.float\(\)"),
        ("Nameless", "not finite on all"),
        ("Seven", "does not take 1×12×12"),
        ("Aside", "must return one logit per class"),
    ],
)
def test_a_network_that_cannot_be_hardened_is_refused_before_the_training(
    factories, quick_harden, tmp_path, name, says
):
    stages = set()
    for options in ({"epochs": 2}, {"epochs": None, "budget": "2s"}):
        with pytest.raises(InputError, match=says):
            quick_harden(
                f"{factories}:{name}", out=tmp_path / "out", progress=lambda what, *_: stages.add(what), **options
            )
    assert stages <= {"decode digits"}
    assert not (tmp_path / "out").exists()


def test_a_network_of_three_channels_is_hardened_on_grey_images_read_as_rgb(factories, quick_harden):
    found = quick_harden(f"{factories}:Three", epochs=1)
    assert found.warnings[0] == "grey images were read as RGB, for the model has 3 input channel(s)"
    assert found.model(torch.rand(2, 3, 12, 12)).shape == (2, 10)
    with pytest.raises(InputError, match="does not take 1×12×12"):
        quick_harden(f"{factories}:Three", preprocessing=Preprocessing(channels=1))


def test_a_network_that_onnx_cannot_hold_is_refused_before_the_training(factories, quick_harden, tmp_path):
    pytest.importorskip("onnxruntime")
    stages = set()
    with pytest.raises(InputError, match="cannot be exported to ONNX"):
        quick_harden(f"{factories}:Odd", onnx=True, progress=lambda what, *_: stages.add(what))
    assert stages <= {"decode digits"}


def test_colour_images_are_augmented_from_five_epochs_on(pictures, quick_harden):
    for epochs, augment in ((4, "none"), (5, "shifts")):  # of 33 images: 10 updates of 16 are 4.8 epochs
        found = quick_harden(data=pictures, limit=None, batch_size=16, test_images=10, epochs=epochs)
        assert found.facts.training.augment == augment


def test_a_folder_of_a_factory_describes_the_function(factories, quick_harden, tmp_path):
    quick_harden(f"{factories}:Viewing", out=tmp_path / "out", epochs=1)
    assert json.loads((tmp_path / "out" / "model.json").read_text())["factory"] == f"{factories}:Viewing"
