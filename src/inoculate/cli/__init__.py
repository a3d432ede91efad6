"""The command line: the only place that prints, parses or picks a device."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from inoculate.cli import study
from inoculate.cli.evaluate import evaluate
from inoculate.cli.harden import harden
from inoculate.cli.report import report
from inoculate.cli.train import train
from inoculate.cli.transfer import transfer
from inoculate.core.errors import InputError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def alone(context: typer.Context) -> None:
    """Measure how image classifiers fail under adversarial attack, and harden them."""
    if _rank() is not None and context.invoked_subcommand != "train":
        raise InputError(f"{context.invoked_subcommand} works in one process: only train shares its work with others")


app.add_typer(study.app, name="study")
for command in (evaluate, transfer, train, harden, report):
    app.command()(command)

# Newer typer carries its own copy of click: this is the usage error of whichever copy is in use.
USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
USER_MENDS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
}


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 2 the user's input is wrong (one line on stderr), 130 interrupted."""
    sys.exit(_guarded(lambda: app(arguments, standalone_mode=False)))


def _guarded(work: Callable[[], Any]) -> int:
    try:
        code = int(work() or 0)
    except InputError as error:
        return _fail(str(error))
    except USAGE_ERROR as error:
        message = error.format_message()  # empty where the help has just been shown instead
        return _fail(f"{message} See inoculate --help") if message else 2
    except OSError as error:
        if error.errno not in USER_MENDS:
            raise
        return _fail(
            f"{error.filename or 'a file'} cannot be read or written ({error.strerror}): free space or change the path"
        )
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:  # typer may also turn Ctrl-C into this code itself
        typer.echo("interrupted: run the same command again to go on", err=True)
    return code


def _rank() -> int | None:
    """Which of several processes a launcher made this one; None if it is alone."""
    return int(os.environ.get("RANK", "0")) if os.environ.get("WORLD_SIZE", "1") != "1" else None


def _fail(message: str) -> int:
    """Say it in one line; of several processes that train together, the others say who they are."""
    rank = _rank()
    typer.echo((f"process {rank}: " if rank else "error: ") + " ".join(message.split()), err=True)
    return 2
