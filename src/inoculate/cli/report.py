"""`inoculate report`: an HTML page from what a job left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inoculate.cli.options import OUTPUT, topic_option

Source = Annotated[Path, typer.Argument(help="A folder that a job wrote, or a file that --json wrote.")]
Out = Annotated[
    Path | None, topic_option("--out", OUTPUT, "File for the page [default: SOURCE/report.html, or beside the file].")
]
Figures = Annotated[Path | None, topic_option("--figures", OUTPUT, "Folder that receives every figure as a PNG.")]


def report(
    source: Source,
    out: Out = None,
    figures: Figures = None,
) -> None:
    """Write one self-contained HTML page: findings, tables, figures, images. Nothing is computed again.

    Example: inoculate report runs/demo
    """
    from inoculate.report.write import write_report

    page = write_report(source, out, figures=figures)
    typer.echo(f"{page}: {page.stat().st_size / 1e6:.1f} MB (open it in a browser)")
