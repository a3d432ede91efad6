"""`inoculate train --method`."""

import json

import pytest
import torch
from torch import nn

from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.registry import ATTACKS
from inoculate.cli import run
from inoculate.cli.common import load_network
from inoculate.cli.methods import helper_networks
from inoculate.core.errors import InputError
from inoculate.data.load import load_data
from inoculate.models.loading.checkpoints import ModelSpec
from inoculate.training import monitors
from inoculate.training import trainer as loop
from inoculate.training.methods.adversarial import AdversarialMethod
from inoculate.training.methods.base import standard
from inoculate.training.samples import training_set

SMALL = ["--model", "small_cnn", "--data", "digits", "--image-size", "12", "--limit", "160"]
QUICK = ["harden", *SMALL, "--eps", "0.1", "--epochs", "2", "--batch-size", "40", "--test-images", "16"]
METHOD = ["--method", "pgd_at", "--option", "steps=2", "--option", "average=0.9"]


def call(*arguments):
    return run([str(a) for a in arguments])


def refused(capsys, *arguments):
    assert call(*arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.fixture(scope="module", autouse=True)
def _small_autoattack():
    """Every member, with a small budget: what is tested here is what becomes of the numbers."""
    with pytest.MonkeyPatch.context() as patch:
        for name, version in (("autoattack", "standard"), ("autoattack_binary", "binary")):
            patch.setitem(ATTACKS, name, AutoAttack(version, steps=5, targets=2, queries=20))
        yield


@pytest.mark.parametrize("command", ["train"])
def test_a_remedy_is_taken_where_an_alarm_is_raised(command, tmp_path, capsys, monkeypatch):
    """An alarm after the first round: from then on the remedy trains, and the warning says so."""
    used = []
    real = AdversarialMethod.__call__

    def note(self, *arguments, **options):
        used.append(type(self.defence).__name__)
        return real(self, *arguments, **options)

    monkeypatch.setattr(AdversarialMethod, "__call__", note)
    for place in (loop, monitors):
        monkeypatch.setattr(place, "detect_failures", lambda history: [(0, "robust accuracy fell")] if history else [])
    more = [*SMALL, "--eps", "0.1", "--epochs", "2", "--batch-size", "40", "--out", tmp_path]
    more += ["--test-images", "10"] if command == "harden" else []
    assert call(command, *more, "--method", "fgsm_rs", "--fallback", "pgd_at") == 0
    assert used == ["FGSMRS"] * used.count("FGSMRS") + ["PGDAT"] * used.count("PGDAT")
    assert used.count("FGSMRS") < used.count("PGDAT")
    assert "continued with pgd_at" in capsys.readouterr().err
    if command == "harden":
        assert "continued with pgd_at" in (tmp_path / "README.md").read_text()


def test_train_by_a_method(tmp_path, capsys):
    arguments = [*SMALL, "--epochs", "1", "--eps", "8/255", "--out", tmp_path / "a"]
    assert call("train", *arguments, "--method", "trades", "--option", "steps=2", "--option", "beta=3") == 0
    assert "under PGD-10" in capsys.readouterr().out
    facts = json.loads((tmp_path / "a" / "model.json").read_text())
    assert (facts["method"]["method"], facts["method"]["beta"]) == ("trades", 3)
    more = [*SMALL, "--epochs", "1", "--out", tmp_path / "b"]
    assert call("train", *more, "--method", "rslad", "--option", "steps=1", "--teacher", tmp_path / "a") == 0
    assert call("train", *more, "--method", "ensemble", "--surrogate", tmp_path / "a") == 0
    assert "random weights" in refused(capsys, "train", *more, "--method", "ensemble", "--surrogate", "resnet18")
    assert "no eps" in refused(capsys, "train", *more, "--eps", "0.3")
    assert "no norm" in refused(capsys, "train", *more, "--norm", "l2")
    assert "no attack" in refused(capsys, "train", *more, "--method", "fgsm_rs", "--eps", "0")
    assert "no options" in refused(capsys, "train", *more, "--option", "steps=1")
    assert "takes no teacher" in refused(capsys, "train", *more, "--teacher", tmp_path / "a")
    assert "not watched" in refused(capsys, "train", *more, "--fallback", "pgd_at")
    assert "is not there" in refused(capsys, "train", *more, "--method", "ard", "--teacher", "resnet18")
    assert "is not there" in refused(capsys, "train", *more, "--method", "ard", "--teacher", tmp_path / "nowhere")
    assert "unknown augmentation" in refused(capsys, "train", *SMALL, "--out", tmp_path / "c", "--augment", "auto")
    assert not (tmp_path / "c").exists()
    ard = ["--method", "ard", "--teacher", tmp_path / "a", "--out", tmp_path / "a"]
    assert "which would be lost" in refused(capsys, "train", *more, *ard)
    export = tmp_path / "b.onnx"
    export.touch()
    assert "no gradients" in refused(capsys, "train", *more, "--method", "ensemble", "--surrogate", export)
    alone = ["train", "--model", "resnet18", *more[2:], "--batch-size", "1"]
    assert "BatchNorm needs several images" in refused(capsys, *alone)


def test_an_epoch_of_one_update_and_the_seed_of_a_factory(factories, tmp_path):
    """A factory's own weights come from the seed too."""
    one = ["train", *SMALL[:-1], "40", "--epochs", "1", "--out", tmp_path / "a", "--batch-size", "64"]
    assert call(*one, "--method", "fgsm_rs", "--eps", "0.1") == 0
    assert len(json.loads((tmp_path / "a" / "history.json").read_text())) == 1
    images = load_data("digits", "train", image_size=12)
    nets = [load_network(f"{factories}:Viewing", images, "cpu", seed=seed).state_dict() for seed in (0, 0, 1)]
    assert torch.equal(nets[0]["out.weight"], nets[1]["out.weight"])
    assert not torch.equal(nets[0]["out.weight"], nets[2]["out.weight"])


def test_a_network_that_learns_alongside_does_not_start_as_the_same():
    images = load_data("digits", "train", image_size=12)
    (alongside,) = helper_networks("live_surrogate", None, ["small_cnn"], images, "cpu", 0)
    own = ModelSpec.fitting("small_cnn", images).build(seed=0)
    pairs = zip(alongside.state_dict().values(), own.state_dict().values(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


FACTORY = """
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
        return (super().forward(x), x) if self.training else super().forward(x)

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
"""


@pytest.fixture
def factories(tmp_path):
    (tmp_path / "neighbour.py").write_text("WIDTH = 12")
    (tmp_path / "nets.py").write_text(FACTORY)
    return tmp_path / "nets.py"


def test_a_helper_that_knows_other_classes_is_named(factories, tmp_path, capsys):
    five = f"{factories}:Five"
    start = ["train", *SMALL, "--epochs", "1", "--out", tmp_path / "out", "--method", "ensemble", "--surrogate", five]
    said = refused(capsys, *start)
    assert five in said
    assert "the model knows 5 classes" in said


def test_a_checkpoint_of_another_network_is_named(tmp_path):
    images = load_data("digits", "train", image_size=12).limit(40, seed=0)
    data = training_set("standard", images, (), seed=0)
    recipe = loop.Recipe(2, rounds=2, batch_size=20)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(144, n), nn.Linear(n, 10)) for n in (4, 5)]
    loop.fit(nets[0], data, images, standard, recipe, seed=0, folder=tmp_path)
    with pytest.raises(InputError, match="of another network"):
        loop.fit(nets[1], data, images, standard, recipe, seed=0, folder=tmp_path)
