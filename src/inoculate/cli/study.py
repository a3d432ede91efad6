"""`inoculate study`: run and list whole studies."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from inoculate.cli.common import DataRoot, Device, Limit, pick_device, writable
from inoculate.core.errors import InputError

app = typer.Typer(no_args_is_help=True, help="Run whole studies from a YAML file.")


@app.command("run")
def study_run(
    file: Annotated[Path, typer.Argument(help="The study, a YAML file.")],
    data_root: DataRoot = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results and artefacts; runs/NAME if left out.")] = None,
    store: Annotated[
        Path | None, typer.Option(help="Folder for artefacts, to share them between runs [OUT/store].")
    ] = None,
    only: Annotated[str | None, typer.Option(help="Only this dataset of the study.")] = None,
    limit: Limit = None,
    device: Device = "auto",
) -> None:
    """Train, attack, craft, retrain, and print the tables; finished steps are never done twice."""
    from inoculate.artifacts.store import Store
    from inoculate.cli.progress import Screen
    from inoculate.report.claims import claims
    from inoculate.report.folder import gather, read_run
    from inoculate.report.page import write_page
    from inoculate.report.tables import paper_tables
    from inoculate.report.write import write_report
    from inoculate.study.load import load_study
    from inoculate.study.manifest import write_manifest
    from inoculate.study.plan import plan
    from inoculate.study.run import Run

    study = load_study(file)
    if limit is not None:
        study = study.model_copy(update={"limit": limit})
    if only is not None and only not in study.datasets:
        raise InputError(f"--only {only}: {file} has no such dataset, choose one of {', '.join(study.datasets)}")
    folder = writable(out or Path("runs") / study.name)
    run = Run(study, Store(writable(store or folder / "store")), data_root, lambda: pick_device(device))
    screen = Screen(Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 150))
    try:
        run.go(screen, plan(study, only))
    finally:
        screen.close()
        run.recall(plan(study))
        if run.rows:
            write_report(folder, run.rows, run.records, run.surrogates, run.parameters)
            write_manifest(folder, run)
            gather(folder, run.explanations)
            write_page(folder / "report.html", read_run(folder), folder / "figures")
    screen.show(paper_tables(run.rows, run.surrogates))
    for claim in claims(run.rows, run.records, run.surrogates, run.parameters):
        screen.console.print(f"• {claim.sentence}", markup=False, highlight=False, soft_wrap=True)
    if not screen.made:
        screen.console.print("Everything was already there: nothing was computed again.")
    screen.console.print(
        f"Results: {folder}/report.html (open it in a browser), tables.md, results.json, figures/",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@app.command("plan")
def study_plan(
    file: Annotated[Path, typer.Argument(help="The study, a YAML file.")],
    only: Annotated[str | None, typer.Option(help="Only this dataset of the study.")] = None,
) -> None:
    """List the steps of a study in the order in which they are done."""
    from inoculate.study.load import load_study
    from inoculate.study.plan import plan

    for number, cell in enumerate(plan(load_study(file), only), start=1):
        typer.echo(f"{number:4} {cell.title}")
