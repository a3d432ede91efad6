"""Exit codes of the command line, and one line on stderr for everything that a user can correct."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import typer

from inoculate.core.errors import InputError

DONE, MISSED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
HOW_TO_CONTINUE = "run the same command again to continue (without --out or --store it begins anew)"
# Newer versions of typer carry their own copy of click: this is the usage error of the copy in use.
_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
_FILE_ERRORS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
}


def exit_code(command: Callable[[], Any]) -> int:
    """Run `command` and return its exit code; an error that a user can correct is printed as one line on stderr."""
    try:
        code = int(command() or DONE)
    except InputError as error:
        return _refuse(str(error))
    except _USAGE_ERROR as error:
        message = error.format_message()  # empty where the help has just been shown instead
        name = error.ctx.command_path if error.ctx else "inoculate"
        return _refuse(f"{message} See {name} --help") if message else WRONG_INPUT
    except OSError as error:
        if error.errno not in _FILE_ERRORS:
            raise
        place = error.filename or "a file"
        return _refuse(f"{place} cannot be read or written ({error.strerror}): free space or change the path")
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer may also turn Ctrl-C into this code itself
        typer.echo(f"interrupted: {HOW_TO_CONTINUE}", err=True)
    return code


def launched_rank() -> int | None:
    """The rank of this process where a launcher started several; None for a single process."""
    return int(os.environ.get("RANK", "0")) if os.environ.get("WORLD_SIZE", "1") != "1" else None


def _refuse(message: str) -> int:
    """Print one line; of several processes, all but the first say which one they are."""
    rank = launched_rank()
    typer.echo((f"process {rank}: " if rank else "error: ") + " ".join(message.split()), err=True)
    return WRONG_INPUT
