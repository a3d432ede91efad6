"""`inoculate harden` and `inoculate train --method`, on a few small images."""

import importlib
import json
import re
import shlex
import shutil
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from inoculate.artifacts import store
from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.registry import ATTACKS
from inoculate.cli import _guarded, app
from inoculate.cli.evaluate import load_network
from inoculate.cli.hardening import HardeningData, check_augment, function_in_python, is_trained, policy_for, recipe_for
from inoculate.cli.methods import helper_networks
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.data.load import load_data
from inoculate.hardening.schedule import choose, enough, ladder_for
from inoculate.models.loading.checkpoints import ModelSpec
from inoculate.models.loading.load import load_model
from inoculate.models.loading.specs import identity
from inoculate.training import monitors
from inoculate.training import trainer as loop
from inoculate.training.methods.adversarial import AdversarialMethod
from inoculate.training.methods.base import standard
from inoculate.training.samples import training_set

SMALL = ["--model", "small_cnn", "--data", "digits", "--image-size", "12", "--limit", "160"]
QUICK = ["harden", *SMALL, "--eps", "0.1", "--epochs", "2", "--batch-size", "40", "--test-images", "16"]
METHOD = ["--method", "pgd_at", "--option", "steps=2", "--option", "average=0.9"]


def call(*arguments):
    return _guarded(lambda: app([str(a) for a in arguments], standalone_mode=False))


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


@pytest.fixture(scope="module")
def hardened(tmp_path_factory):
    out = tmp_path_factory.mktemp("hardened")
    assert (
        call(*QUICK, "--out", out, "--method", "pgd_at", "--option", "steps=2", "--option", "average=0.9", "--onnx")
        == 0
    )
    return out


def test_the_folder_is_a_model_that_evaluate_reads(hardened, capsys):
    assert not list(hardened.glob(".unfinished*"))
    description = json.loads((hardened / "model.json").read_text())
    assert description["method"]["steps"] == 2
    assert description["threat"]["eps"] == 0.1
    rows = json.loads((hardened / "results.json").read_text())
    assert [(r["arm"], r["attack"]) for r in rows] == [
        (arm, attack) for arm in ("standard", "pgd_at") for attack in ("none", "fgsm", "pgd", "autoattack")
    ]
    assert {r["n"] for r in rows} == {16}
    arguments = ["--data", "digits", "--limit", "16", "--attack", "pgd", "--eps", "0.1", "--no-trust"]
    assert call("evaluate", "--model", hardened, *arguments) == 0
    clean = next(r["accuracy"] for r in rows if (r["arm"], r["attack"]) == ("pgd_at", "none"))
    assert f"{clean:.1%}" in capsys.readouterr().out


def test_the_card_says_what_was_measured(hardened):
    text = (hardened / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    results = yaml.safe_load(front)["model-index"][0]["results"][0]
    rows = [r for r in json.loads((hardened / "results.json").read_text()) if r["arm"] == "pgd_at"]
    assert [m["value"] for m in results["metrics"]] == [round(r["accuracy"], 4) for r in rows]
    for row in rows:
        assert f"[{row['ci_low']:.1%}, {row['ci_high']:.1%}] | {row['n']} |" in body
    for word in ("AISVS C11.2", "article 15(5)", "no statement of conformity", "not a proof", "onnxruntime"):
        assert word in body, word


def as_the_card_says(folder, images):
    """The logits that the Python lines of a card give."""
    (lines,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names = {"images": images}
    exec(lines, names)
    return names["logits"]


def command_in_the_card(folder):
    (line,) = re.findall(r"```\n(inoculate .*?)\n```", (folder / "README.md").read_text())
    return shlex.split(line)


def test_python_as_in_the_card_loads_the_network(hardened):
    images = torch.rand(3, 1, 12, 12)
    assert torch.equal(as_the_card_says(hardened, images), load_model(hardened)(images))


def test_onnx_gives_the_networks_logits(hardened):
    session = pytest.importorskip("onnxruntime").InferenceSession(str(hardened / "model.onnx"))
    images = load_data("digits", "test", image_size=12).images[:7].float() / 255
    (logits,) = session.run(None, {"images": images.numpy()})
    assert np.allclose(logits, load_model(hardened)(images).detach().numpy(), atol=1e-4)


def test_a_budget_chooses_a_method_and_says_why(tmp_path, capsys):
    arguments = [*QUICK[:-6], "--budget", "2s", "--batch-size", "40", "--test-images", "12", "--out", tmp_path]
    assert call(*arguments) == 0
    said = capsys.readouterr()
    assert "ms here, so" in said.out
    assert "before" in said.out
    assert "warning" not in said.err


def test_the_more_time_the_stronger_the_method():
    ladder = ladder_for(Threat("linf", 0.3), nn.Linear(1, 1))
    chosen = [choose(seconds, 0.01, 100, ladder) for seconds in (1, 20, 40, 200, 2000)]
    assert [s.choice.name for s in chosen] == ["fgsm_rs", "pgd_at", "pgd_at", "pgd_at", "trades"]
    steps = [s.choice.defence.steps for s in chosen[1:]]
    assert steps == sorted(steps)
    for schedule, seconds in zip(chosen, (1, 20, 40, 200, 2000), strict=True):
        assert 0.6 * seconds < schedule.updates * schedule.choice.passes * 0.01 <= seconds


def test_small_changes_of_a_pixel_have_a_ladder_of_their_own():
    normed, plain = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Linear(2, 2)
    ladder = ladder_for(Threat("linf", 8 / 255), normed)
    chosen = [choose(seconds, 0.01, 100, ladder) for seconds in (1, 40, 200, 2000)]
    assert [s.choice.name for s in chosen] == ["fgsm_rs", "fgsm_rs", "fgsm_rs_then_pgd", "fgsm_rs_then_pgd"]
    assert chosen[2].choice.common.awp > 0
    assert [c.common.weight_decay for c, _ in ladder] == [0.3, None]
    assert {c.common.weight_decay for c, _ in ladder_for(Threat("linf", 8 / 255), plain)} == {None}
    other = [ladder_for(Threat("l2", eps), normed) for eps in (8 / 255, 1)]
    assert other[0] == other[1]
    assert len(other[0]) > len(ladder)


def test_what_is_learnt_by_heart_takes_no_time():
    for eps, cases in ((8 / 255, ((10, 700), (100, 5000))), (0.3, ((5, 700), (100, 10_000)))):
        threat = Threat("linf", eps)
        ladder = ladder_for(threat, nn.Linear(1, 1))
        for epoch, most in cases:
            long = choose(20_000, 0.01, epoch, ladder, enough(threat, epoch))
            assert long.updates == most
            assert f"{most} are made" in long.reason
        assert choose(100, 0.01, 100, ladder, enough(threat, 100)) == choose(100, 0.01, 100, ladder)


def test_a_stopped_hardening_goes_on_with_the_same_result(hardened, tmp_path, monkeypatch):

    arguments = [*QUICK, "--out", tmp_path, *METHOD]
    real, count = loop.save_weights, [0]

    def stop(path, model):
        count[0] += 1
        if count[0] == 4:  # of the ordinary training one, of the hardening two: in its third round
            raise KeyboardInterrupt
        real(path, model)

    monkeypatch.setattr(loop, "save_weights", stop)
    assert call(*arguments) == 130
    assert list(tmp_path.glob(".unfinished*"))
    assert not (tmp_path / "model.json").exists()
    monkeypatch.setattr(loop, "save_weights", real)
    assert call(*arguments) == 0
    expected, got = (load_model(folder).state_dict() for folder in (hardened, tmp_path))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_a_training_that_only_harms_leaves_the_network_as_it_came(hardened, tmp_path, capsys):
    arguments = [hardened if word == "small_cnn" else word for word in [*QUICK, *METHOD]]
    assert call(*arguments, "--lr", "3", "--out", tmp_path / "harmed") == 0
    assert "its weights are as they came" in capsys.readouterr().err
    assert "its weights are as they came" in (tmp_path / "harmed" / "README.md").read_text()
    came, kept = (load_file(folder / "weights.safetensors") for folder in (hardened, tmp_path / "harmed"))
    assert all(torch.equal(came[name], kept[name]) for name in came)
    rows = json.loads((tmp_path / "harmed" / "results.json").read_text())
    assert [r["accuracy"] for r in rows[:4]] == [r["accuracy"] for r in rows[4:]]
    card = (tmp_path / "harmed" / "README.md").read_text()
    assert "hardened" not in card.lower().replace("adversarial-example hardening", "").replace(str(tmp_path), "")
    assert "method" not in json.loads((tmp_path / "harmed" / "model.json").read_text())
    assert "one cycle to a learning rate of 3," in card
    assert call(*arguments, "--out", tmp_path / "better") == 0
    assert "as they came" not in capsys.readouterr().err
    assert "learning rate of 0.0005," in (tmp_path / "better" / "README.md").read_text()  # a tenth, for small_cnn
    gained = load_file(tmp_path / "better" / "weights.safetensors")
    assert not all(torch.equal(came[name], gained[name]) for name in came)


@pytest.fixture
def pictures(tmp_path):
    """A folder with `pictures` of two classes in it."""
    rng = np.random.default_rng(0)
    for label, light in (("dark", 40), ("light", 180)):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for i in range(24):
            pixels = rng.integers(light, light + 60, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / label / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("file", ["far_away.py", "far-away.py"])
def test_the_cards_lines_find_a_function_wherever_it_lies(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / file).write_text("from torch import nn\ndef net(): return nn.Flatten()\n")
    monkeypatch.setattr(sys, "path", sys.path[:])
    names = {}
    exec(function_in_python(f"deep/{file}:net"), names)
    assert isinstance(names["net"](), nn.Flatten)


def test_weights_can_be_read_by_whoever_may_read_the_card(hardened):
    modes = {name: (hardened / name).stat().st_mode & 0o777 for name in ("weights.safetensors", "README.md")}
    assert modes["weights.safetensors"] == modes["README.md"]


def test_own_factory_and_own_images_of_two_classes(pictures, capsys):
    tmp_path = pictures
    (tmp_path / "dark and light").symlink_to(tmp_path / "pictures")
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def net(): return nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.ReLU(), nn.Linear(8, 2))\n"
    )
    model, out = f"{tmp_path / 'mine.py'}:net", tmp_path / "out"
    arguments = ["--data", tmp_path / "dark and light", "--image-size", "12", "--eps", "0.05", "--norm", "l2"]
    assert call("harden", "--model", model, *arguments, "--out", out, "--method", "fgsm_rs", "--epochs", "3") == 0
    assert "autoattack_binary" in capsys.readouterr().out
    line = refused(capsys, "evaluate", "--model", out, *arguments)
    assert f"--model {model} --weights" in line
    images, weights = torch.rand(2, 3, 12, 12), load_file(out / "weights.safetensors")
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.ReLU(), nn.Linear(8, 2))
    net.load_state_dict(weights)
    assert torch.equal(as_the_card_says(out, images), net(images))
    capsys.readouterr()
    assert call(*command_in_the_card(out)[1:], "--no-trust") == 0
    measured = next(r for r in json.loads((out / "results.json").read_text()) if r["attack"] == "none" and r["n"])
    assert f" on {measured['n']} images" in capsys.readouterr().out


DECLARED = """
import torch
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


@pytest.mark.parametrize(
    ("name", "outputs"), [("Net", "logits"), ("Single", "single-logit"), ("Sure", "probabilities")]
)
def test_what_is_declared_of_a_network_holds_wherever_it_is_loaded(name, outputs, pictures, capsys):
    """Its pixels are normalised, and what it gives is no logits: the card's lines, ONNX and its own weights agree."""
    folder, model, out = pictures, f"{pictures / 'declared.py'}:{name}", pictures / "out"
    (folder / "declared.py").write_text(DECLARED)
    said = [*(["--outputs", outputs] if outputs != "logits" else []), "--normalize", "0.5/0.1"]
    data = ["--data", folder / "pictures", "--image-size", "12", "--eps", "0.05", "--norm", "l2"]
    command = ["harden", "--model", model, *data, *said, "--out", out, "--method", "fgsm_rs", "--epochs", "3", "--onnx"]
    pytest.importorskip("onnxruntime")
    if name == "Single":
        assert "with --outputs" in refused(capsys, *["logits" if word == outputs else word for word in command])
    assert call(*command) == 0
    assert "warning" not in capsys.readouterr().err
    assert all(key.startswith("body.") for key in load_file(out / "weights.safetensors"))
    images = torch.rand(5, 3, 12, 12)
    found = as_the_card_says(out, images)
    assert found.shape == (5, 2)
    net = sys.modules["declared"].__dict__[name]()
    net.load_state_dict(load_file(out / "weights.safetensors"))
    gives, chances = net((images - 0.5) / 0.1), found.softmax(dim=1)
    second = {"Net": gives.softmax(1)[:, -1], "Single": gives.sigmoid().flatten(), "Sure": gives[:, -1]}[name]
    assert torch.allclose(chances[:, 1], second, atol=1e-6)
    session = pytest.importorskip("onnxruntime").InferenceSession(str(out / "model.onnx"))
    assert np.allclose(session.run(None, {"images": images.numpy()})[0], found.detach().numpy(), atol=1e-4)
    assert call(*command_in_the_card(out)[1:], "--no-trust") == 0
    rows = json.loads((out / "results.json").read_text())
    assert f"{rows[4]['accuracy']:.1%}" in capsys.readouterr().out  # clean, after
    line = refused(capsys, "evaluate", "--model", out, *data)
    assert line.endswith(" ".join([f"--model {model} --weights {out / 'weights.safetensors'}", *said]))
    assert call(*command) == 0
    assert "has finished here before" in capsys.readouterr().out
    assert call(*command[:-1], "--normalize", "0.5/0.2") == 0
    assert "has finished here before" not in capsys.readouterr().out


def test_a_named_network_keeps_the_normalisation_that_is_asked_for(tmp_path, capsys):
    assert call(*QUICK, "--out", tmp_path / "a", "--method", "fgsm_rs", "--normalize", "0.5/0.25") == 0
    assert load_model(tmp_path / "a").normalize.std.flatten().tolist() == [0.25]
    assert "gives logits: leave --outputs out" in refused(
        capsys, *QUICK, "--out", tmp_path / "b", "--outputs", "probabilities"
    )
    more = ["harden", "--model", tmp_path / "a", *QUICK[3:], "--out", tmp_path / "b", "--normalize", "mnist"]
    assert "has its normalisation inside" in refused(capsys, *more)
    for text, says in (("0.5", "is not understood"), ("imagenet", "is for 3 channels and the images have 1")):
        assert says in refused(capsys, *QUICK, "--out", tmp_path / "b", "--normalize", text)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "trade"], "did you mean 'trades'"),
        (["--method", "trades", "--option", "bta=2"], "did you mean 'beta'"),
        (["--method", "trades", "--option", "beta"], "write it like steps=7"),
        (["--method", "trades", "--option", "beta=high"], "neither a number"),
        (["--method", "rslad"], "--teacher"),
        (["--option", "steps=2"], "name one"),
        (["--teacher", "mine"], "takes no teacher"),
        (["--method", "fgsm_rs", "--teacher", "mine"], "fgsm_rs takes no teacher"),
        (["--method", "ard", "--surrogate", "mine"], "ard takes no surrogate"),
        (["--method", "live_surrogate", "--surrogate", "a", "--surrogate", "b"], "give --surrogate once"),
        (["--method", "ensemble", "--fallback", "pgd_at"], "not watched"),
        (["--method", "fgsm_rs", "--fallback", "ard"], "needs another network"),
        (["--method", "fgsm_rs", "--fallback", "pgdat"], "did you mean 'pgd_at'"),
        (["--eps", "0"], "no attack"),
        (["--eps", "8"], "8/255"),
        (["--budget", "soon"], "90s, 5m or 1h30m"),
        (["--budget", "1h30"], "90s, 5m or 1h30m"),
        (["--model", "model.onnx"], "cannot be trained"),
        (["--model", "own.py"], "own.py:factory"),
        (["--method", "pgd_at", "--option", "steps=+-5"], "neither a number"),
        (["--model", "own.py:net", "--stem", "small"], "leave --pretrained and --stem out"),
        (["--pretrained", "--weights", "w.safetensors"], "two sets of weights"),
        (["--pretrained"], "small_cnn has no weights of others"),
        (["--method", "fgsm_rs", "--option", "random_start=3"], "give true or false"),
        (["--method", "ard", "--teacher", "nowhere"], "--teacher nowhere is not there"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_harden_refuses(capsys, tmp_path, arguments, says):
    assert says in refused(capsys, "harden", *SMALL, "--out", tmp_path, *arguments)


@pytest.mark.parametrize("command", ["train", "harden"])
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


def test_the_same_command_again_has_nothing_left_to_do(hardened, tmp_path, capsys):
    """And a changed teacher is another command, though its name is the same."""
    before = {file.name: file.read_bytes() for file in hardened.iterdir()}
    assert call(*QUICK, "--out", hardened, *METHOD, "--onnx") == 0
    assert "has finished here before" in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in hardened.iterdir()} == before
    teacher, out = tmp_path / "teacher", tmp_path / "out"
    ard = [*SMALL, "--epochs", "1", "--out", out, "--method", "ard", "--option", "steps=1", "--teacher", teacher]
    digests = []
    for seed in (0, 1):
        assert call("train", *SMALL, "--epochs", "1", "--out", teacher, "--seed", seed) == 0
        assert call("train", *ard) == 0
        assert "before" not in capsys.readouterr().out
        assert call("train", *ard) == 0
        assert "has finished here before" in capsys.readouterr().out
        digests.append(json.loads((out / "model.json").read_text())["sha256"])
    assert len(set(digests)) == 2


@pytest.mark.parametrize("command", ["train", "harden"])
def test_a_run_stopped_at_its_very_end_is_not_taken_for_finished(command, tmp_path, monkeypatch, capsys):
    arguments = QUICK[1:] if command == "harden" else [*SMALL, "--epochs", "1", "--eps", "0.1"]
    arguments = [command, *arguments, "--out", tmp_path, *METHOD]

    def stop(path, value):
        if path.name == "history.json":
            raise KeyboardInterrupt
        real(path, value)

    real = store.write_json
    for again in (False, True):  # the second time over a folder that is whole
        with monkeypatch.context() as patch:
            patch.setattr(store, "write_json", stop)
            assert call(*arguments, "--seed", int(again)) == 130
        assert list(tmp_path.glob(".unfinished*"))
        capsys.readouterr()
        assert call(*arguments, "--seed", int(again)) == 0
        assert "finished here before" not in capsys.readouterr().out
        assert (tmp_path / "history.json").is_file()


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


def test_a_card_never_lies_beside_other_weights(hardened, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(hardened, out)
    train = ["train", *SMALL, "--epochs", "1"]
    assert "README.md describes the model" in refused(capsys, *train, "--out", out)
    (out / "model.onnx").write_bytes(b"of other weights")
    assert call(*QUICK, "--out", out, "--method", "fgsm_rs") == 0
    assert not (out / "model.onnx").exists()
    assert "`fgsm_rs`" in (out / "README.md").read_text()
    (out / "README.md").unlink()
    (out / "model.onnx").write_bytes(b"of other weights")
    assert call(*train, "--out", out) == 0
    assert not (out / "model.onnx").exists()
    assert not (out / "results.json").exists()


@pytest.mark.parametrize(
    "name", ["README.md", "results.json", "history.json", "model.onnx", "weights.safetensors", "model.json"]
)
def test_what_is_not_of_a_model_of_ours_is_not_written_over(tmp_path, capsys, name):
    (tmp_path / name).write_text("mine")
    for start in (QUICK, ["train", *SMALL, "--epochs", "1"]):
        assert f"{name} is not of a model that was trained here" in refused(capsys, *start, "--out", tmp_path)
    assert (tmp_path / name).read_text() == "mine"
    if name != "model.json":
        (tmp_path / "model.json").write_text('{"sha256": 1}' if name == "README.md" else "[]")
        (tmp_path / "history.json").write_text("[]")
        assert "is not of a model that was trained here" in refused(capsys, *QUICK, "--out", tmp_path)


def test_five_epochs_are_five_epochs_for_the_augmentation(pictures, capsys):
    few = ["--data", pictures / "pictures", "--image-size", "12", "--eps", "0.05", "--method", "fgsm_rs"]
    start = ["harden", "--model", "small_cnn", *few, "--batch-size", "16", "--test-images", "10"]
    for epochs, moved in ((4, False), (5, True)):  # of 33 images: 10 updates of 16 are 4.8
        assert call(*start, "--epochs", epochs, "--out", pictures / str(epochs)) == 0
        assert ("images moved and mirrored" in capsys.readouterr().out) == moved


def test_a_changed_module_is_another_model(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ours_of_late.py").write_text("from torch import nn\ndef net(): return nn.Flatten()\n")
    load_model("ours_of_late:net")
    first = identity("ours_of_late:net")
    assert identity("ours_of_late:net") == first
    with (tmp_path / "ours_of_late.py").open("a") as file:
        file.write("# changed\n")
    assert identity("ours_of_late:net") != first


def test_a_model_is_not_written_among_the_images(tmp_path, capsys):
    for place in (tmp_path, tmp_path / "deeper" / "out"):
        assert "a folder is a class" in refused(capsys, *QUICK[:3], "--data", tmp_path, "--out", place)


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


def test_a_network_that_views_its_maps_and_has_spare_and_shared_weights(factories, tmp_path):
    """It has never been trained, so it gets the whole learning rate and something to be compared with."""
    start = [*QUICK[:1], "--model", f"{factories}:Viewing", *QUICK[3:], "--out", tmp_path / "out"]
    assert call(*start, "--method", "fgsm_rs", "--option", "awp=0.005") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "after 2 epochs of ordinary training" in card
    assert "learning rate of 0.002" in card
    evaluate = ["--weights", tmp_path / "out" / "weights.safetensors", *QUICK[3:7], "--attack", "pgd", "--eps", "0.1"]
    assert call("evaluate", "--model", f"{factories}:Viewing", *evaluate, "--no-trust") == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Five", "knows 5 classes and the data has 10"),
        ("Stiff", "requires a gradient"),
        ("Locked", "cannot be copied"),
        ("Detached", "reaches the pixels"),
        ("leaves", "SystemExit: 3"),
        ("Long", "let its function return model.float()"),
        ("Nameless", "outputs that are no finite numbers on all"),
        ("Three", "does not take 1×12×12"),
        ("Aside", "in train mode too it must return one logit per class"),
    ],
)
@pytest.mark.parametrize("length", [["--epochs", "2"], ["--budget", "2s"]], ids=["epochs", "budget"])
def test_a_network_that_cannot_be_hardened_is_refused_at_once(factories, tmp_path, capsys, name, says, length):
    data = [*SMALL[2:], "--eps", "0.1", "--test-images", "16"]
    start = ["harden", "--model", f"{factories}:{name}", *data, *length, "--out", tmp_path / "out"]
    assert call(*start) == 2
    said = capsys.readouterr()
    assert says in said.err.strip().splitlines()[-1]
    assert "autoattack" not in said.err


def test_a_functions_network_is_no_teacher_and_not_trained_anew(factories, hardened, tmp_path, capsys):
    quick = ["--method", "fgsm_rs", "--epochs", "1", "--test-images", "10"]
    made = ["harden", "--model", f"{factories}:Viewing", *SMALL[2:], "--eps", "0.1", *quick, "--out", tmp_path / "made"]
    assert call(*made) == 0
    assert "warning" not in capsys.readouterr().err
    start = ["train", *SMALL, "--out", tmp_path / "out", "--method", "ard", "--teacher", tmp_path / "made"]
    assert "made is not one: give the folder of a timm network" in refused(capsys, *start)
    for model in (f"{factories}:Viewing", hardened):
        assert "inoculate harden takes it" in refused(capsys, "train", "--model", model, *start[3:])


def test_report_points_from_a_hardened_folder_to_its_card(hardened, capsys):
    assert "its card" in refused(capsys, "report", hardened)


def test_fewer_images_than_a_batch_are_one_batch(tmp_path, capsys):
    few = ["harden", *SMALL[:-1], "24", "--eps", "0.1", "--method", "fgsm_rs", "--test-images", "10"]
    assert call(*few, "--epochs", "3", "--out", tmp_path) == 0
    assert "3 epochs, 3 updates" in capsys.readouterr().out
    assert "3 updates of 24 images out of 24" in (tmp_path / "README.md").read_text()


def test_a_helper_that_knows_other_classes_is_named(factories, tmp_path, capsys):
    five = f"{factories}:Five"
    start = ["train", *SMALL, "--epochs", "1", "--out", tmp_path / "out", "--method", "ensemble", "--surrogate", five]
    said = refused(capsys, *start)
    assert five in said
    assert "the model knows 5 classes" in said


def test_a_card_says_what_l1_means_and_names_no_attack_that_was_not_run(tmp_path):
    assert call(*QUICK, "--eps", "2", "--norm", "l1", "--method", "pgd_at", "--out", tmp_path) == 0
    card = (tmp_path / "README.md").read_text()
    assert "the sum of all changes is at most eps" in card
    assert "AutoAttack" not in card
    assert [row["attack"] for row in json.loads((tmp_path / "results.json").read_text())] == ["none", "fgsm", "pgd"] * 2


def test_a_network_that_onnx_cannot_hold_is_refused_before_the_training(factories, tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(loop, "_train", None)
    odd = [*QUICK[:1], "--model", f"{factories}:Odd", *QUICK[3:], "--out", tmp_path / "out", "--onnx"]
    assert call(*odd) == 2
    assert "cannot be exported to ONNX" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_good_network_on_uneven_classes_counts_as_trained():
    labels = torch.tensor([0] * 90 + [1] * 10)
    images = labels[:, None, None, None].expand(-1, 1, 4, 4).to(torch.uint8) * 255
    split = Dataset.from_tensors(images.contiguous(), labels, name="uneven")
    good, same = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    for net, slope in ((good, 1.0), (same, 0.0)):
        nn.init.zeros_(net[1].weight)
        net[1].weight.data[1] = slope
        net[1].bias.data = torch.tensor([0.5, 0.0])
    assert is_trained(good, split)
    assert not is_trained(same, split)


def test_a_checkpoint_of_another_network_is_named(tmp_path):
    images = load_data("digits", "train", image_size=12).limit(40, seed=0)
    data = training_set("standard", images, (), seed=0)
    recipe = loop.Recipe(2, rounds=2, batch_size=20)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(144, n), nn.Linear(n, 10)) for n in (4, 5)]
    loop.fit(nets[0], data, images, standard, recipe, seed=0, folder=tmp_path)
    with pytest.raises(InputError, match="of another network"):
        loop.fit(nets[1], data, images, standard, recipe, seed=0, folder=tmp_path)


def test_a_card_of_somebody_elses_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "README.md").write_text("mine")
    assert "README.md" in refused(capsys, *QUICK, "--out", tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_photographs_are_moved_and_mirrored_unless_told_otherwise():
    digits = load_data("digits", "val", image_size=12)
    photos = Dataset.from_tensors(digits.images.expand(-1, 3, -1, -1).contiguous(), digits.labels, name="pets")
    assert [policy_for("auto", images, 9) for images in (digits, photos)] == ["none", "shifts"]
    assert policy_for("auto", photos, 1.5) == policy_for("none", photos, 9) == "none"
    check_augment("auto", photos)
    with pytest.raises(InputError, match="shifts"):
        check_augment("shift", photos)


def test_validation_of_few_images_leaves_the_time_to_the_training():
    images = load_data("digits", "train", image_size=12)
    bench = HardeningData(images, images.limit(150, seed=0), images.limit(20, seed=1), Threat("linf", 8 / 255), 0)
    schedule = choose(20.0, 0.01, -(-len(images) // 64), ladder_for(bench.threat, nn.Linear(1, 1)))
    recipe = recipe_for(schedule, bench, 64, 0.002, "none", in_time=True)
    price = recipe.rounds * (10 * 150 + 150 / 3) / 64
    assert recipe.rounds >= 1
    assert price <= 0.2 * schedule.updates * schedule.choice.passes
    assert recipe_for(schedule, bench, 64, 0.002, "none", in_time=False).rounds > recipe.rounds
