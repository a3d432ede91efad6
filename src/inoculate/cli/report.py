"""`inoculate report`: an HTML page from what a job left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inoculate.cli.gate import end_with
from inoculate.cli.options import OUTPUT, topic_option
from inoculate.core.errors import InputError

Source = Annotated[Path, typer.Argument(help="A folder that a job wrote, or a file that --json wrote.")]
Out = Annotated[
    Path | None, topic_option("--out", OUTPUT, "File for the page [default: SOURCE/report.html, or beside the file].")
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
    source: Source,
    out: Out = None,
    figures: Figures = None,
    evidence: Evidence = None,
    verify: Verify = None,
) -> None:
    """Write one self-contained HTML page: findings, tables, figures, images. Nothing is computed again.

    Example: inoculate report runs/demo
    """
    from inoculate.report.evidence.pack import verify_evidence, write_evidence
    from inoculate.report.write import write_report

    given = [name for name, value in (("--evidence", evidence), ("--verify", verify)) if value is not None]
    if given and (len(given) > 1 or out is not None or figures is not None):
        raise InputError(f"{given[0]} writes no other page: give it alone")
    if evidence is not None:
        typer.echo(f"{write_evidence(source, evidence)} (beside it evidence.html: open it in a browser)")
        return
    if verify is not None:
        verdict = verify_evidence(source, verify)
        typer.echo(f"{verify}: {sum(each.met for each in verdict.outcomes)} of {len(verdict.outcomes)} parts unchanged")
        if not verdict:
            end_with(verdict)
        return
    page = write_report(source, out, figures=figures)
    typer.echo(f"{page}: {page.stat().st_size / 1e6:.1f} MB (open it in a browser)")
