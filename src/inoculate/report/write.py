"""Write a report: an HTML page, and for whole runs tables and figures as files."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from inoculate.artifacts.files import write_text
from inoculate.core.errors import InputError
from inoculate.report.claims import Claim, claims
from inoculate.report.comparison import joined
from inoculate.report.html.page import render
from inoculate.report.names import short_name, short_names
from inoculate.report.plots.accuracy_files import write_accuracy_figures
from inoculate.report.results import READINGS
from inoculate.report.run import MODEL, RESULTS, RunRecord, read_run
from inoculate.report.tables.latex import to_latex
from inoculate.report.tables.long_form import to_csv
from inoculate.report.tables.markdown import to_markdown
from inoculate.report.tables.paper import paper_tables
from inoculate.report.tables.table import Table

PAGE, COMPARISON, FIGURES = "report.html", "comparison.html", "figures"
_KEY = f"""\
Three readings of "accuracy on adversarial images": *{READINGS[0]}*, crafted anew on the network as it is now;
*{READINGS[1]}*, the images that had been crafted on the same network before retraining; *{READINGS[2]}*, the images
that had been crafted on the surrogate before retraining. Differences are in percentage points with a 95 % interval
over images; with several seeds it also covers the variation between trainings.
"""
_VERDICT = re.compile(r": (supported|contradicted|not decided)\. ")


@runtime_checkable
class Result(Protocol):
    """What a job returns: it can be written into a folder."""

    def save(self, folder: Path, /) -> Any: ...


@runtime_checkable
class StoredResult(Result, Protocol):
    """A result that knows the folder it lies in, if it lies in one."""

    @property
    def folder(self) -> Path | None: ...


Source = str | PathLike[str] | Result


def write_report(
    source: Source | Sequence[Source], path: str | PathLike[str] | None = None, *,
    figures: str | PathLike[str] | None = None,
) -> Path:  # fmt: skip
    """Write one self-contained HTML page of `source` and return its path. Nothing is computed again.

    Args:
        source: a folder that a job wrote, a file of rows, or the result of a job. Several of them, each with one
            network on the same data, are compared on one page.
        path: the page. By default `report.html` in the folder (also of a result that lies in one), beside the file
            of rows with the ending `.html`, or for several `comparison.html` in the current folder.
        figures: folder that receives every figure as a PNG.

    A folder of an evaluation or a study, given without a `path`, also receives `tables.md`, `tables.csv`, `tables.tex`
    and `figures/`. Raises `InputError` where there is nothing to report, where a file cannot be read, and for several
    sources that cannot be compared.
    """
    figures_folder = None if figures is None else Path(figures)
    if isinstance(source, Sequence) and not isinstance(source, str):
        return write_text(Path(path or COMPARISON), render(_compared(source), figures_folder))
    if isinstance(source, str | PathLike):
        return _report_of_path(Path(source), None if path is None else Path(path), figures_folder)
    if path is None and isinstance(source, StoredResult) and source.folder is not None:
        return _report_of_path(source.folder, None, figures_folder)
    run = _read(source)
    if path is None:
        raise InputError("the result is not saved in a folder: give the path of its page, such as 'report.html'")
    return write_text(Path(path), render(run, figures_folder))


def _read(source: Source) -> RunRecord:
    if isinstance(source, str | PathLike):
        return read_run(Path(source))
    if not isinstance(source, Result):
        raise InputError(f"cannot report on {type(source).__name__}: give a folder, a file of rows or a job's result")
    with tempfile.TemporaryDirectory() as folder:
        source.save(Path(folder))
        return read_run(Path(folder))


def _compared(sources: Sequence[Source]) -> RunRecord:
    """The runs of several models as one, under the names of the models, or of their folders where these are alike."""
    if not all(isinstance(source, str | PathLike | Result) for source in sources):
        raise InputError(f"cannot report on {type(sources).__name__}: give a folder, a file of rows or a job's result")
    if len(sources) < 2:
        raise InputError(f"a comparison needs two models or more, got {len(sources)}")
    runs = [_read(source) for source in sources]
    names = [short_name(run.rows[-1].model) if run.rows else "" for run in runs]
    if len(set(names)) < len(names):
        places = [
            str(Path(source).with_suffix("")) if isinstance(source, str | PathLike) else f"{name} ({number})"
            for number, (source, name) in enumerate(zip(sources, names, strict=True), start=1)
        ]
        names = [short_names(places)[place] for place in places]
    if len(set(names)) < len(names):
        raise InputError(f"{names[0]} is given twice: give each model once")
    return joined(dict(zip(names, runs, strict=True)))


def _report_of_path(source: Path, path: Path | None, figures: Path | None) -> Path:
    run = read_run(source)
    if path is None and (source / RESULTS).is_file() and not (source / MODEL).is_file():
        write_tables(source, run)
        figures = figures or source / FIGURES
    page = source.with_suffix(".html") if source.is_file() else source / PAGE
    return write_text(path or page, render(run, figures))


def write_tables(folder: Path, run: RunRecord) -> list[Path]:
    """Write tables.md, tables.csv, tables.tex and the figures for papers into `folder`; return their paths.

    Each file is replaced as a whole. Any subset of a study's rows will do.
    """
    tables = paper_tables(run.rows, run.surrogates)
    found = claims(run.rows, run.records, run.surrogates, run.parameters)
    written = [
        write_text(folder / "tables.md", tables_page(tables, found)),
        write_text(folder / "tables.csv", to_csv(tables)),
        write_text(folder / "tables.tex", to_latex(tables)),
    ]
    for dataset in dict.fromkeys(row.dataset for row in run.rows):
        written += write_accuracy_figures(run.rows, dataset, folder / FIGURES, run.surrogates)
    return written


def tables_page(tables: Sequence[Table], found: Sequence[Claim]) -> str:
    """The markdown page: the claims with their verdicts, then the tables."""
    sentences = "\n".join("- " + _VERDICT.sub(r": **\1**. ", claim.sentence, count=1) for claim in found)
    head = f"## What the numbers say\n\n{_KEY}\n{sentences}\n\n" if sentences else ""
    return f"# Results\n\n{head}## Tables\n\n{to_markdown(tables)}"
