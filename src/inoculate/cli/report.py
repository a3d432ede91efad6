"""`inoculate report`: an HTML page from what a job left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inoculate.cli.options import OUTPUT, topic_option

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
Figures = Annotated[Path | None, topic_option("--figures", OUTPUT, "Folder that receives every figure as a PNG.")]


def report(
    sources: Sources,
    out: Out = None,
    figures: Figures = None,
) -> None:
    """Write one self-contained HTML page: findings, figures, images, tables. Nothing is computed again.

    Several sources are compared on one page: which model to ship.

    Example: inoculate report runs/demo
    """
    from inoculate.report.write import write_report

    page = write_report(sources if len(sources) > 1 else sources[0], out, figures=figures)
    typer.echo(f"{page}: {page.stat().st_size / 1e6:.1f} MB (open it in a browser)")
