"""`inoculate report`: one HTML page from what a run left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inoculate.cli.common import writable


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a file that evaluate --json wrote.")],
    out: Annotated[Path | None, typer.Option(help="The page [RUN/report.html, or beside the file].")] = None,
    figures: Annotated[Path | None, typer.Option(help="Write every figure as a PNG to this folder too.")] = None,
) -> None:
    """Write one self-contained HTML page: findings, tables, figures, images. Nothing is computed again."""
    from inoculate.report.folder import read_run
    from inoculate.report.page import write_page

    measured = read_run(run)
    page = out or (run.with_suffix(".html") if run.is_file() else run / "report.html")
    writable(page.parent)
    if figures is not None:
        writable(figures)
    write_page(page, measured, figures)
    typer.echo(f"{page}: {page.stat().st_size / 1e6:.1f} MB, opens in any browser")
