"""Options have one name, one meaning and one help text; every command has a help with an example."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
import typer

import inoculate
from inoculate.cli import app
from inoculate.cli.parsers import parse_attacks, parse_threats, pick_device
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat

# Where one option means two things, the commands that each meaning belongs to.
DIFFERENT = {
    "--model": [{"evaluate", "certify", "explain", "play"}, {"transfer"}, {"train"}, {"harden"}],
    "--attack": [{"evaluate", "certify", "play"}, {"transfer", "explain"}],
    "--eps": [{"evaluate", "certify", "transfer"}, {"explain", "harden", "play"}, {"train"}],
    "--norm": [{"evaluate", "certify", "transfer"}, {"explain", "harden", "play"}, {"train"}],
    "--method": [{"train"}, {"harden"}, {"certify"}],
    "--epochs": [{"train"}, {"harden"}],
    "--precision": [{"evaluate", "certify", "transfer"}, {"train"}],
    "--surrogate": [{"evaluate"}, {"train", "harden"}],
    "--json": [{"evaluate", "certify", "transfer"}, {"compare"}],
    "--out": [
        {"train", "harden", "explain"},
        {"evaluate", "certify", "transfer"},
        {"report"},
        {"study run"},
        {"export"},
    ],
}
EXPECTED = {
    *("--model", "--weights", "--pretrained", "--outputs", "--normalize", "--data", "--data-root", "--split"),
    *("--image-size", "--limit", "--attack", "--norm", "--eps", "--seed", "--batch-size", "--precision"),
    *("--time-budget", "--json", "--out", "--device", "--surrogate", "--teacher", "--fallback", "--method"),
    *("--option", "--epochs", "--budget", "--checks", "--lr", "--augment", "--stem"),
}


def commands(group: Any = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by the words that call it."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def options(command: Any) -> Iterator[Any]:
    return (parameter for parameter in command.params if parameter.param_type_name == "option")


@pytest.mark.smoke
def test_an_option_is_the_same_in_every_command() -> None:
    meanings: dict[str, dict[tuple[str, ...], set[str]]] = defaultdict(lambda: defaultdict(set))
    for name, command in commands():
        for option in options(command):
            meaning = (option.help, option.rich_help_panel or "", str(option.multiple))
            meanings[option.opts[0]][meaning].add(name)
    assert set(meanings) >= EXPECTED
    for flag, found in meanings.items():
        parts = list(found.values())
        assert len(parts) == 1 or sorted(map(sorted, parts)) == sorted(map(sorted, DIFFERENT.get(flag, []))), flag
    assert not {flag for flag in DIFFERENT if len(meanings[flag]) == 1}, "these have one meaning now"


def test_every_option_has_a_help_text_and_a_topic() -> None:
    for name, command in commands():
        for option in options(command):
            assert option.help, f"{name} {option.opts}"
            assert option.opts == ["--help"] or option.rich_help_panel, f"{name} {option.opts}"


def test_every_command_shows_an_example(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for name, _ in commands():
        assert call(*name.split(), "--help") == 0
        assert f"Example: inoculate {name}" in capsys.readouterr().out, name


def test_the_help_lists_the_commands_by_topic(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    call("--help")
    printed = capsys.readouterr().out
    topics = ("Measure ─", "│ evaluate", "Harden ─", "│ harden", "Report ─", "│ report", "Study ─", "│ study")
    places = [printed.index(words) for words in topics]
    assert places == sorted(places)


def test_version_is_one_place(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"inoculate {inoculate.__version__}\n"
    assert version("inoculate") == inoculate.__version__


def test_the_shell_completes_commands() -> None:
    words = {"_INOCULATE_COMPLETE": "complete_bash", "COMP_WORDS": "inoculate ev", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['inoculate']; from inoculate.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **words}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["evaluate"]


@pytest.mark.smoke
def test_lists_are_separated_by_commas() -> None:
    assert parse_attacks("fgsm, pgd") == ["fgsm", "pgd"]
    assert parse_threats("l2", "0.5,8/255") == [Threat("l2", 0.5), Threat("l2", 8 / 255)]


def test_a_device_that_is_not_there_is_refused() -> None:
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in ("cpu", "cuda")
    with pytest.raises(InputError, match="choose cpu or auto"):
        pick_device("cuda:77")


def test_several_norms_have_an_eps_each() -> None:
    assert parse_threats("linf, l2,l1", "8/255,0.5,12") == [
        Threat("linf", 8 / 255),
        Threat("l2", 0.5),
        Threat("l1", 12),
    ]
    assert parse_threats("l2", "0.5,1") == [Threat("l2", 0.5), Threat("l2", 1)]
    for norms, sizes in (("linf,l2", "8/255"), ("linf,l2", "0.1,0.2,0.3")):
        with pytest.raises(InputError, match="give each norm its eps"):
            parse_threats(norms, sizes)
