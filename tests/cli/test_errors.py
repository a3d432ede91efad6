"""Exit codes: 0 done, 2 the user's input is wrong (one line on stderr), 130 interrupted."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from inoculate.cli.errors import HOW_TO_CONTINUE, exit_code
from inoculate.core.errors import InputError

EVALUATE = ("evaluate", "--model", "test_resnet", "--data", "digits", "--limit", "20")
MISTAKES = (
    ("--eps 8", "did you mean 8/255?"),
    ("--eps -1", "at least 0"),
    ("--eps 8/0", "write it like 0.03 or 8/255"),
    ("--eps __import__('os')", "not a number"),
    ("--eps nan", "not a number"),
    ("--eps ", "not a number"),
    ("--attack fgms", "did you mean 'fgsm'?"),
    ("--norm l7", "use one of linf, l2, l1"),
    ("--limit 0", "--limit"),
    ("--limit -3", "--limit"),
    ("--batch-size 0", "--batch-size"),
    ("--seed -1", "--seed"),
    ("--seed x", "--seed"),
    ("--precision half", "fast, exact"),
    ("--time-budget soon", "90s, 5m or 1h30m"),
    ("--split tests", "did you mean 'test'"),
    ("--model resnet81", "did you mean 'resnet"),
    ("--model no.such.package:factory", "cannot be imported"),
    ("--model nowhere.py:factory", "is not there"),
    ("--model weights.pth", "is not there"),
    ("--data mnits", "did you mean 'mnist'?"),
    ("--data ./no/such/folder", "check the path"),
    ("--image-size 0", "image size"),
    ("--device cuda:77", "choose cpu or auto"),
    ("--weights none.safetensors", "cannot be read"),
    ("--records rows.csv", ".parquet"),
    ("--nonsense 1", "evaluate --help"),
)


@pytest.mark.smoke
def test_every_mistake_is_one_line_that_says_what_to_do(refused: Callable[..., str]) -> None:
    for arguments, says in MISTAKES:
        line = refused(*EVALUATE, *arguments.split(" ", 1))
        assert says in line, arguments
        assert "Traceback" not in line


def test_a_model_or_data_that_cannot_be_used_is_one_line(
    refused: Callable[..., str], constant_model: str, model_folder: Path, pets: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(*EVALUATE, "--data", tmp_path / "empty")
    assert "choose the data it was trained for" in refused(*EVALUATE, "--model", model_folder, "--data", pets)
    assert "not differentiable" in refused(*EVALUATE, "--model", constant_model)
    (tmp_path / "wrong.py").write_text("def broken(): return 1 / 0\n")
    assert "ZeroDivisionError" in refused(*EVALUATE, "--model", f"{tmp_path}/wrong.py:broken")


def test_missing_arguments_and_unknown_commands_are_one_line(refused: Callable[..., str]) -> None:
    assert "--data" in refused("evaluate", "--model", "test_resnet")
    assert "No such command 'evalaute'" in refused("evalaute")


def test_files_that_cannot_be_written_are_one_line(
    refused: Callable[..., str], model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    arguments = ("evaluate", "--model", model_folder, "--data", "digits", "--limit", "20")
    assert "taken" in refused(*arguments, "--out", tmp_path / "taken")
    assert "is a folder" in refused(*arguments, "--json", tmp_path)
    (tmp_path / "rows.json").write_text("[]")
    assert "taken" in refused("report", tmp_path / "rows.json", "--out", tmp_path / "taken" / "page.html")


def test_system_errors_that_a_user_can_correct_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for number in (errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT):

        def fail(number: int = number) -> None:
            raise OSError(number, os.strerror(number), "/some/file")

        assert exit_code(fail) == 2
        line = capsys.readouterr().err
        assert line == (
            f"error: /some/file cannot be read or written ({os.strerror(number)}): free space or change the path\n"
        )

    def unforeseen() -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        exit_code(unforeseen)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_fills_up_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fill() -> None:
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")

    assert exit_code(fill) == 2
    assert "No space left" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt, typer.Abort])
def test_an_interruption_says_how_to_continue(error: type[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise error

    assert exit_code(interrupt) == 130
    assert capsys.readouterr().err == f"interrupted: {HOW_TO_CONTINUE}\n"


def test_an_error_of_many_lines_becomes_one(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise InputError("the model\n  is wrong")

    assert exit_code(refuse) == 2
    assert capsys.readouterr().err == "error: the model is wrong\n"


def test_only_train_runs_in_several_processes(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, who in (("0", "error: "), ("1", "process 1: ")):
        monkeypatch.setenv("RANK", rank)
        assert call(*EVALUATE) == 2
        line = capsys.readouterr().err
        assert (
            line
            == f"{who}evaluate runs in one process; only train, harden and study can share their work between several\n"
        )
