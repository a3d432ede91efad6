"""`inoculate compare`: is a new model less robust than an old one, image by image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inoculate.cli import gate
from inoculate.cli.options import OUTPUT, topic_option
from inoculate.cli.output import require_writable_places

Old = Annotated[Path, typer.Argument(help="A folder that evaluate --out wrote for the old model.")]
New = Annotated[Path, typer.Argument(help="One for the new model, with the same data, attacks and seed.")]
Allow = Annotated[str, topic_option("--allow", gate.GATE, "Loss of accuracy that is tolerated: 0.01 or 1%.")]
ComparisonJson = Annotated[Path | None, topic_option("--json", OUTPUT, "Write the comparison to this file.")]


def compare(
    old: Old,
    new: New,
    allow: Allow = "0",
    json_file: ComparisonJson = None,
    sarif: gate.Sarif = None,
    junit: gate.JUnit = None,
) -> None:
    """Compare two evaluations image by image; exit code 1 if the new model is significantly less accurate.

    Example: inoculate compare runs/old runs/new --allow 0.01
    """
    from inoculate.artifacts.files import write_json
    from inoculate.core.requirements import parse_share
    from inoculate.evaluation.compare import compare as run

    tolerated = parse_share(allow)
    require_writable_places((json_file, sarif, junit), ())
    found = run(old, new, allow=tolerated)
    typer.echo(found)
    if json_file is not None:
        write_json(json_file, found.as_dict())
    verdict = found.verdict
    gate.write_verdict(verdict, str(new / "results.json"), None, sarif, junit)
    if not verdict:
        gate.end_with(verdict)
