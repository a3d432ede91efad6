"""`inoculate play`: what is refused before a page is opened, and what the page is opened with."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from inoculate.cli import app
from inoculate.core import extras
from inoculate.playground import serve
from inoculate.playground.session import Session

DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "play.md"


class Served:
    """Stands for a page: notes what it was opened with, and ends at once."""

    opened: tuple[Session, str, int | None]

    def __init__(self, session: Session, host: str, port: int | None) -> None:
        type(self).opened, self.url = (session, host, port), "http://127.0.0.1:7860/"

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def wait(self) -> None:
        raise KeyboardInterrupt


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> type[Served]:
    monkeypatch.setattr(serve, "require_gradio", lambda: None)
    monkeypatch.setattr(serve, "serve", Served)
    return Served


def test_without_gradio_it_says_what_to_install(
    refused: Any, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda package: None)
    line = refused("play", "--model", model_folder, "--data", "digits")
    assert line == "error: the playground needs the package gradio: pip install 'inoculate[play]'"


def test_it_opens_a_page_on_this_machine_alone_and_ends_with_ctrl_c(
    call: Any, served: type[Served], model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--model", model_folder, "--data", "digits", "--limit", 20)
    assert call("play", *arguments, "--hardened", model_folder, "--attack", "pgd,fgsm", "--loss", "margin") == 0
    session, host, port = served.opened
    assert (host, port) == ("127.0.0.1", None)
    assert list(session.attacks) == ["pgd loss=margin", "fgsm loss=margin"]
    assert len(session.networks) == 2
    assert len(session.data) == 20
    assert session.reading.size == (32, 32)
    assert (session.norm, session.eps) == ("linf", 8 / 255)
    printed = capsys.readouterr()
    assert "Playground: http://127.0.0.1:7860/ (Ctrl-C ends it)" in printed.out
    assert "others can open" not in printed.err


def test_threat_address_and_reading_are_passed_on(
    call: Any, served: type[Served], model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(
        "play", "--model", model_folder, "--data", "digits", "--limit", 10, "--norm", "l2", "--eps", "0.5",
        "--host", "0.0.0.0", "--port", 8080, "--interpolation", "bicubic",
    ) == 0  # fmt: skip
    session, host, port = served.opened
    assert (host, port) == ("0.0.0.0", 8080)
    assert "warning: others can open the page through 0.0.0.0" in capsys.readouterr().err
    assert (session.norm, session.eps, session.largest_eps) == ("l2", 0.5, 2.0)
    assert session.reading.interpolation == "bicubic"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--eps", "0"), "eps 0"),
        (("--eps", "8"), "did you mean 8/255"),
        (("--attack", "pdg"), "did you mean 'pgd'"),
        (("--norm", "l7"), "l7"),
        (("--hardened", "nowhere.safetensors"), "is not there"),
        (("--port", "70000"), "--port"),
    ],
)
def test_wrong_input_is_one_line(
    refused: Any, served: type[Served], model_folder: Path, options: tuple[str, ...], words: str
) -> None:
    assert words in refused("play", "--model", model_folder, "--data", "digits", "--limit", 10, *options)


def test_the_commands_of_the_guide_can_be_parsed() -> None:
    lines = re.findall(r"^\$ (inoculate play .+)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) >= 2
    command: Any = typer.main.get_command(app)
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        context = command.make_context("inoculate", list(words))
        _, play, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        play.make_context("play", rest, parent=context)
