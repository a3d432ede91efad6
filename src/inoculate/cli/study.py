"""`inoculate study`: run, plan and list whole studies."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inoculate.cli.errors import launched_rank
from inoculate.cli.options import DATA, OUTPUT, DataRoot, Device, Executor, Limit, Store, topic_option
from inoculate.cli.output import print_line
from inoculate.cli.parsers import pick_device

if TYPE_CHECKING:
    from inoculate.cli.screen import Screen
    from inoculate.study.result import StudyRun

app = typer.Typer(no_args_is_help=True, help="Run whole studies from a YAML file.")

Source = Annotated[str, typer.Argument(metavar="FILE", help="A YAML file, or a shipped study such as demo or paper.")]
Only = Annotated[str | None, topic_option("--only", DATA, "Only this dataset of the study.")]
Out = Annotated[Path | None, topic_option("--out", OUTPUT, "Folder for results and artefacts [default: runs/NAME].")]


@app.command("run")
def study_run(
    file: Source,
    data_root: DataRoot = None,
    out: Out = None,
    store: Store = None,
    only: Only = None,
    limit: Limit = None,
    device: Device = "auto",
    executor: Executor = "local",
) -> None:
    """Train, attack, craft, retrain, and print the tables; finished steps are never repeated.

    Example: inoculate study run demo
    """
    from rich.console import Console

    from inoculate.cli.screen import Screen
    from inoculate.study.load import load_study
    from inoculate.study.result import RESULTS, StudyRun
    from inoculate.study.run import run_study

    study, terminal = load_study(file, limit=limit), sys.stdout.isatty()
    folder = out or Path("runs") / study.name
    screen = Screen(Console(soft_wrap=not terminal, width=None if terminal else 150), study.transfer)
    try:
        run = run_study(
            study, out=folder, store=store, data_root=data_root, only=only, device=pick_device(device),
            executor=executor, progress=None if launched_rank() else screen,
        )  # fmt: skip
    except BaseException:  # Ctrl-C too: what has been measured is reported
        screen.close()
        if not launched_rank() and (folder / RESULTS).is_file():
            StudyRun.load(folder).report()
        raise
    if launched_rank():
        return
    page = run.report()
    _print(run, screen)
    print_line(screen.console, f"Results: {page} (open it in a browser), tables.md, results.json, figures/")


@app.command("plan")
def study_plan(file: Source, only: Only = None) -> None:
    """List the steps of a study in the order in which they are done.

    Example: inoculate study plan paper --only mnist
    """
    from inoculate.study.load import load_study
    from inoculate.study.plan import plan

    for number, cell in enumerate(plan(load_study(file), only), start=1):
        typer.echo(f"{number:4} {cell.title}")


@app.command("list")
def study_list() -> None:
    """List the studies that come with the package.

    Example: inoculate study list
    """
    from inoculate.study.shipped import shipped_studies

    studies = shipped_studies()
    width = max(map(len, studies), default=0)
    for name, path in studies.items():
        comment, _, _ = path.read_text(encoding="utf-8").partition("\n")
        typer.echo(f"{name:{width}}  {comment.removeprefix('#').strip()}")


def _print(run: StudyRun, screen: Screen) -> None:
    """Print the tables and what they say."""
    screen.show(run.tables)
    for claim in run.claims:
        print_line(screen.console, f"• {claim.sentence}")
    if not run.made:
        screen.console.print("Everything was already there: nothing was computed again.")
