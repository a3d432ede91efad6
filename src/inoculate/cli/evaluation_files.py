"""What `inoculate evaluate` writes: rows, records, images, and the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from inoculate.cli.output import print_note, print_report, print_warnings
from inoculate.core.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from inoculate.attribution.explain import ExplainOptions
    from inoculate.core.threat import Threat
    from inoculate.data.dataset import Dataset
    from inoculate.evaluation.result import Evaluation


def write_files(
    found: Evaluation, network: nn.Module, images: Dataset, rows: Path | None, records: Path | None, folder: Path | None
) -> None:
    """Write the rows, the records and the adversarial images, each where a place for it is given."""
    from inoculate.artifacts.rows import write_rows
    from inoculate.evaluation.records import save_images, write_records

    if rows is not None:
        write_rows(rows, found.rows)
    if records is not None:
        write_records(found, records)
    for saved in save_images(found, network, images, folder) if folder else ():
        typer.echo(f"  {saved}")


def write_page(
    out: Path, network: nn.Module, images: Dataset, threat: Threat, explained: ExplainOptions | None
) -> None:
    """Write the page of an evaluation, with an explanation of the model under PGD if it is wanted and possible."""
    from inoculate.attribution.explain import explain
    from inoculate.attribution.explanation import save_explanations
    from inoculate.cli.progress import Steps
    from inoculate.report.write import write_report

    explanations = []
    try:
        with Steps() as steps:
            if explained is not None:
                explanations.append(explain(network, images, "pgd", threat, options=explained, progress=steps))
    except InputError as error:  # a model without gradients
        print_note(f"the report explains nothing ({error})")
    print_warnings(note for each in explanations for note in each.facts["notes"] if note not in images.notes)
    save_explanations(out, explanations)
    print_report(write_report(out))
