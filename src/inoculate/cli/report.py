"""`inoculate report`: an HTML page from what a job left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inoculate.cli.gate import end_with
from inoculate.cli.options import OUTPUT, topic_option
from inoculate.core.errors import InputError

Sources = Annotated[
    list[Path],
    typer.Argument(
        metavar="SOURCE...", help="A folder that a job wrote, or a file that --json wrote; several are compared."
    ),
]
Out = Annotated[
    Path | None,
    topic_option(
        "--out", OUTPUT, "File for the page [default: SOURCE/report.html, or beside the file; comparison.html]."
    ),
]
Evidence = Annotated[
    Path | None,
    topic_option("--evidence", OUTPUT, "Write evidence.json and evidence.html to this folder, and no other page."),
]
Verify = Annotated[
    Path | None,
    topic_option("--verify", OUTPUT, "Verify the evidence in this folder against SOURCE; exit code 1 if it differs."),
]
Figures = Annotated[Path | None, topic_option("--figures", OUTPUT, "Folder that receives every figure as a PNG.")]


def report(
    sources: Sources,
    out: Out = None,
    figures: Figures = None,
    evidence: Evidence = None,
    verify: Verify = None,
) -> None:
    """Write one self-contained HTML page: findings, figures, images, tables. Nothing is computed again.

    Several sources are compared on one page: which model to ship.

    Example: inoculate report runs/demo
    """
    from inoculate.report.evidence.pack import verify_evidence, write_evidence
    from inoculate.report.write import write_report

    given = [name for name, value in (("--evidence", evidence), ("--verify", verify)) if value is not None]
    if given and (len(given) > 1 or out is not None or figures is not None):
        raise InputError(f"{given[0]} writes no other page: give it alone")
    if given and len(sources) > 1:
        raise InputError(f"{given[0]} is for one run: give one SOURCE")
    if evidence is not None:
        typer.echo(f"{write_evidence(sources[0], evidence)} (beside it evidence.html: open it in a browser)")
        return
    if verify is not None:
        verdict = verify_evidence(sources[0], verify)
        typer.echo(f"{verify}: {sum(each.met for each in verdict.outcomes)} of {len(verdict.outcomes)} parts unchanged")
        if not verdict:
            end_with(verdict)
        return
    page = write_report(sources if len(sources) > 1 else sources[0], out, figures=figures)
    typer.echo(f"{page}: {page.stat().st_size / 1e6:.1f} MB (open it in a browser)")
