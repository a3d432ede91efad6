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
