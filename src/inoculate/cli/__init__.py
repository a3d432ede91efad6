"""The command line: the only place that prints, parses or picks a device."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from inoculate import __version__
from inoculate.cli import study
from inoculate.cli.certify import certify
from inoculate.cli.compare import compare
from inoculate.cli.errors import exit_code, launched_rank
from inoculate.cli.evaluate import evaluate
from inoculate.cli.explain import explain
from inoculate.cli.export import export
from inoculate.cli.harden import harden
from inoculate.cli.output import printed_log
from inoculate.cli.play import play
from inoculate.cli.report import report
from inoculate.cli.train import train
from inoculate.cli.transfer import transfer
from inoculate.core.allocator import keep_freed_memory
from inoculate.core.errors import InputError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"inoculate {__version__}")
        raise typer.Exit


@app.callback()
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Measure how image classifiers fail under adversarial attack, and harden them."""
    command = context.invoked_subcommand
    if launched_rank() is not None and command not in ("train", "harden", "study"):
        raise InputError(
            f"{command} runs in one process; only train, harden and study can share their work between several"
        )
    keep_freed_memory()


def _add(topic: str, *commands: Callable[..., None]) -> None:
    for command in commands:
        app.command(rich_help_panel=topic)(command)


_add("Measure", evaluate, certify, transfer, explain, play, compare)
_add("Harden", harden, train)
_add("Deploy", export)
app.add_typer(study.app, name="study", rich_help_panel="Study")
_add("Report", report)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line, by default with the arguments of this process, and return the exit code.

    0: done. 1: a gate was missed. 2: the user's input is wrong. One line on stderr explains either. 130: interrupted.
    """
    with printed_log():
        return exit_code(lambda: app(arguments, standalone_mode=False))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code of `run`. The signal TERM, as schedulers send it, is like Ctrl-C."""
    if launched_rank() is None:  # a launcher ends its processes all at once, and they must not wait for one another
        signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(run(arguments))


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
