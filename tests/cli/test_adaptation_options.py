"""--target, --loss, --restarts and --eot: options of the attacks that have them, for every command that attacks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from inoculate.cli.parsers import parse_adaptation

LOSS = "import torch\n\ndef half(logits, y):\n    return -logits.gather(1, y[:, None])[:, 0] / 2\n"


def test_what_was_given_is_kept() -> None:
    given = {"target": "3", "loss": None, "restarts": 2, "eot": None}
    assert parse_adaptation(**given) == {"target": 3, "restarts": 2}
    assert parse_adaptation(**{**given, "target": "second"})["target"] == "second"
    assert parse_adaptation(target=None, loss=None, restarts=None, eot=None) == {}


def test_evaluate_attacks_as_told(
    call: Callable[..., int], model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_loss.py").write_text(LOSS)
    options = ("--target", "3", "--loss", f"{tmp_path}/my_loss.py:half", "--restarts", "2", "--eot", "2")
    what = ("--data", "digits", "--limit", "20", "--attack", "pgd", "--eps", "0.3", "--no-checks")
    assert call("evaluate", "--model", model_folder, *what, *options, "--json", tmp_path / "rows.json") == 0
    assert "taken for target 3" in capsys.readouterr().out
    clean, row = json.loads((tmp_path / "rows.json").read_text())
    assert row["attack"] == "pgd target=3 loss=half restarts=2 eot=2"
    assert row["target"] == "3"
    assert 0 <= row["reached"] <= row["tried"]
    assert "target" not in clean


def test_transfer_attacks_as_told(call: Callable[..., int], model_folder: Path, tmp_path: Path) -> None:
    what = ("--data", "digits", "--limit", "10", "--eps", "0.1", "--json", tmp_path / "rows.json")
    assert call("transfer", "--model", model_folder, *what, "--target", "random", "--loss", "margin") == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {row["attack"] for row in rows} == {"none", "mifgsm target=random loss=margin"}


def test_an_attack_without_the_option_says_so(refused: Callable[..., str], model_folder: Path, tmp_path: Path) -> None:
    common = ("--model", model_folder, "--data", "digits", "--limit", "10")

    def refuse(*arguments: object, command: str = "evaluate", words: str) -> None:
        assert words in refused(command, *common, *arguments)

    refuse("--attack", "square", "--loss", "margin", words="attack square has no option 'loss'")
    refuse("--attack", "pgd,fgsm", "--restarts", "2", words="attack fgsm has no option 'restarts'")
    refuse("--attack", "pgd", "--loss", "hinge", words="loss 'hinge' is unknown")
    refuse("--attack", "pgd", "--restarts", "0", words="restarts 0 is not usable")
    refuse("--attack", "pgd", "--target", "cat", words="target 'cat' is unknown")
    refuse("--attack", "pgd", "--target", "10", "--no-checks", words="a class from 0 to 9")
    refuse("--attack", "foolbox:PGD", "--restarts", "2", words="has no option 'restarts'")
    refuse("--attack", "fgsm", "--target", "1", command="transfer", words="attack fgsm has no option 'target'")
    out = ("--out", tmp_path / "out")
    refuse("--attack", "square", "--eot", "2", *out, command="explain", words="attack square has no option 'eot'")
