"""A whole report in a run's folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from inoculate.artifacts.files import write_text
from inoculate.artifacts.rows import Records, write_records, write_rows
from inoculate.core.row import Row
from inoculate.report.claims import Claim, claims
from inoculate.report.figures import accuracy_against_eps
from inoculate.report.latex import write_latex
from inoculate.report.layout import Table, to_markdown, write_csv
from inoculate.report.select import READINGS
from inoculate.report.tables import paper_tables

_KEY = f"""\
The three readings of "accuracy on adversarial images": *{READINGS[0]}*, crafted anew on the network as it is now;
*{READINGS[1]}*, the images that had been crafted on the same network before retraining; *{READINGS[2]}*, the images
that had been crafted on the surrogate before retraining. Differences are in percentage points with a 95 % interval
over images; the luck of training shows only across seeds.
"""
_VERDICT = re.compile(r": (supported|contradicted|not decided)\. ")


def write_report(
    folder: str | Path,
    rows: Sequence[Row],
    records: Records | None = None,
    surrogate: Mapping[str, str] | None = None,
    parameters: Mapping[str, int] | None = None,
) -> list[Path]:
    """Write results.json, records.npz (where there are any), tables.md, .csv and .tex, figures/; return their paths.

    Each file is replaced as a whole. Any subset of a study's rows will do.
    """
    folder = Path(folder)
    written = [write_rows(folder / "results.json", rows)]
    if records:
        written.append(write_records(folder / "records.npz", records))
    tables = paper_tables(rows, surrogate)
    found = claims(rows, records, surrogate, parameters)
    written.append(write_text(folder / "tables.md", tables_page(tables, found)))
    written.append(write_csv(folder / "tables.csv", tables))
    written.append(write_latex(folder / "tables.tex", tables))
    for dataset in dict.fromkeys(row.dataset for row in rows):
        written += accuracy_against_eps(rows, dataset, folder / "figures", surrogate)
    return written


def tables_page(tables: Sequence[Table], found: Sequence[Claim]) -> str:
    """Return the markdown page: what the numbers say, then the tables."""
    said = "\n".join("- " + _VERDICT.sub(r": **\1**. ", claim.sentence, count=1) for claim in found)
    head = f"## What the numbers say\n\n{_KEY}\n{said}\n\n" if said else ""
    return f"# Results\n\n{head}## Tables\n\n{to_markdown(tables)}"
