"""What the commands that can end with exit code 1 share: options of a gate, its files and its one line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inoculate.cli.errors import MISSED
from inoculate.cli.options import topic_option
from inoculate.core.errors import InputError
from inoculate.core.options import require_one_of

if TYPE_CHECKING:
    from inoculate.core.requirements import Requirement
    from inoculate.core.verdict import Verdict

GATE, VERDICT = "Gate", "requirements.json"

Require = Annotated[
    str | None,
    topic_option(
        "--require",
        GATE,
        "Least accuracies; exit code 1 if one is missed: autoattack@8/255>=0.35,clean>=90%,checks.",
    ),
]
RequireOn = Annotated[
    str,
    topic_option("--require-on", GATE, "What must reach them: estimate, or the low or high end of the 95 % interval."),
]
Sarif = Annotated[Path | None, topic_option("--sarif", GATE, "Write the verdict to this file as SARIF 2.1.0.")]
JUnit = Annotated[Path | None, topic_option("--junit", GATE, "Write the verdict to this file as JUnit XML.")]


def parse(require: str | None, on: str, sarif: Path | None, junit: Path | None) -> tuple[Requirement, ...]:
    """The requirements of the options; raises `InputError` for a part of a gate without its rest."""
    from inoculate.core.requirements import BOUNDS, parse_requirements

    require_one_of(BOUNDS, require_on=on)
    if require is not None:
        return parse_requirements(require)
    option = "--sarif" if sarif else "--junit" if junit else None
    if option:
        raise InputError(f"{option} writes the verdict of a gate: give --require too")
    return ()


def write_verdict(
    verdict: Verdict | None, about: str, out: Path | None, sarif: Path | None, junit: Path | None
) -> None:
    """Write the files of a verdict; without one remove that of an earlier run from the folder `out`."""
    from inoculate.artifacts.files import write_json
    from inoculate.report.junit import write_junit
    from inoculate.report.sarif import write_sarif

    if out is not None and verdict is None:
        (out / VERDICT).unlink(missing_ok=True)
    if verdict is None:
        return
    if out is not None:
        write_json(out / VERDICT, verdict.as_dict())
    if sarif is not None:
        write_sarif(verdict, sarif, out / "results.json" if out else about)
    if junit is not None:
        write_junit(verdict, junit, f"inoculate {about}")


def end_with(verdict: Verdict | None) -> None:
    """Print the verdict as one line, and end with exit code 1 if something was missed."""
    if verdict is None:
        return
    typer.echo(verdict.line, err=not verdict.met)
    if not verdict.met:
        raise typer.Exit(MISSED)
