"""`inoculate harden`: the table, warnings, exit codes and one-line errors. tests/hardening tests the job itself."""

import json
import re
import shlex
from dataclasses import dataclass

import pytest

from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.registry import ATTACKS
from inoculate.cli import run

SMALL = ["--model", "small_cnn", "--data", "digits", "--image-size", "12", "--limit", "80", "--eps", "0.1"]
QUICK = [*SMALL, "--test-images", "16", "--batch-size", "40", "--epochs", "1", "--method", "fgsm_rs"]


@pytest.fixture(autouse=True)
def _cheap_autoattack(monkeypatch):
    monkeypatch.setitem(ATTACKS, "autoattack", AutoAttack(steps=5, targets=2, queries=20))


@dataclass(frozen=True)
class Interrupt:
    """An attack during which the user presses Ctrl-C."""

    def __call__(self, model, x, y, threat, *, generator):
        raise KeyboardInterrupt


def harden(*arguments):
    return run(["harden", *map(str, arguments)])


def refused(capsys, *arguments):
    assert harden(*arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.smoke
def test_accuracies_are_printed_before_and_after(tmp_path, capsys):
    assert harden(*QUICK, "--option", "step=1", "--out", tmp_path) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == "fgsm_rs: 1 epochs, 2 updates; augmentation none"
    assert lines[1].split()[:2] == ["before", "after"]
    assert [line.split()[0] for line in lines[2:6]] == ["clean", "fgsm", "pgd", "autoattack"]
    assert re.fullmatch(r"checks: no alarm \(\d of \d made\)", lines[6])
    assert lines[7] == f"{tmp_path}: weights, README.md (robustness card), results.json"
    assert "warning" not in said.err
    assert harden(*QUICK, "--option", "step=1", "--out", tmp_path) == 0
    assert "has finished here before" in capsys.readouterr().out


def test_the_command_on_the_card_measures_the_network_again(tmp_path, capsys):
    assert harden(*QUICK, "--out", tmp_path) == 0
    (line,) = re.findall(r"```\n(inoculate .*?)\n```", (tmp_path / "README.md").read_text())
    capsys.readouterr()
    assert run([*shlex.split(line)[1:], "--limit", "16", "--no-checks"]) == 0
    (clean,) = (row["accuracy"] for row in json.loads((tmp_path / "results.json").read_text())[4:5])
    assert f"{clean:.1%}" in capsys.readouterr().out


def test_warnings_go_to_stderr(tmp_path, capsys):
    assert harden(*QUICK, "--norm", "l2", "--eps", "5", "--out", tmp_path) == 0
    assert "warning: eps 5 in l2 is 42% of the way" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "trade"], "did you mean 'trades'"),
        (["--method", "trades", "--option", "beta"], "write it like steps=7"),
        (["--method", "trades", "--option", "beta=high"], "neither a number"),
        (["--method", "pgd_at", "--option", "steps=+-5"], "neither a number"),
        (["--option", "steps=2"], "name one"),
        (["--eps", "0"], "no attack"),
        (["--eps", "8"], "8/255"),
        (["--budget", "soon"], "90s, 5m or 1h30m"),
        (["--model", "model.onnx"], "cannot be trained"),
        (["--test-images", "9"], "--test-images"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(capsys, tmp_path, arguments, says):
    assert says in refused(capsys, *SMALL, "--out", tmp_path, *arguments)


def test_an_interruption_exits_with_130_and_can_be_resumed(tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(ATTACKS, "fgsm", Interrupt())
        assert harden(*QUICK, "--out", tmp_path) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert harden(*QUICK, "--out", tmp_path) == 0


def test_a_certified_hardening_proves_what_it_delivers(tmp_path, capsys):
    arguments = ["--model", "small_cnn", "--data", "digits", "--eps", "0.05", "--limit", "400", "--test-images", "16"]
    arguments += ["--batch-size", "40", "--epochs", "16", "--certify"]
    assert harden(*arguments, "--out", tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ibp: 16 epochs")
    assert [line.split()[0] for line in lines[2:7]] == ["clean", "fgsm", "pgd", "autoattack", "certified"]
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    before, after = (row["accuracy"] for row in rows if row["attack"] == "certified")
    attacked = [row["accuracy"] for row in rows[5:] if row["attack"] not in ("none", "certified")]
    assert before < 0.1 < 0.2 < after <= min(attacked)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"Of {after:.1%} it is proven that no image within eps is misclassified" in card
    assert f"| *certified* | {before:.1%} | **{after:.1%}** |" in card
    assert "best under what interval bounds prove on" in card
    assert "| certificates | passed |" in card
    assert "under the strongest attack that was run (certified" not in card
    command = shlex.split(re.search(r"^inoculate certify .*$", card, re.MULTILINE)[0])
    command[command.index("--attack") + 1] = "fgsm"
    assert run([*command[1:], "--method", "ibp", "--no-checks", "--limit", "8"]) == 0
    assert harden(*arguments, "--out", tmp_path / "out") == 0
    assert "has finished here before" in capsys.readouterr().out


def test_what_cannot_be_proven_is_refused_before_training(capsys, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.GELU(), nn.Linear(8, 10))\n"
    )
    arguments = ["--model", f"{tmp_path / 'net.py'}:make", *SMALL[2:], *QUICK[len(SMALL) :], "--certify"]
    assert "layer 2 (GELU, gelu)" in refused(capsys, *arguments, "--out", tmp_path / "out")
