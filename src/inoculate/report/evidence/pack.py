"""The evidence pack of a folder: written, and verified against the folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from inoculate.artifacts.files import read_json, write_text
from inoculate.artifacts.output import require_writable
from inoculate.core.errors import InputError
from inoculate.core.verdict import Outcome, Verdict
from inoculate.report.evidence.clauses import CLAUSES, Clause, Item, threat_options
from inoculate.report.evidence.consistency import EVIDENCE, PAGE, digest_of, inconsistencies, listed_files
from inoculate.report.evidence.measurements import measurement_of
from inoculate.report.evidence.page import render
from inoculate.report.evidence.source import Source, read_source

SCHEMA = "inoculate-evidence/2"
STATEMENT = (
    "Measured values and where they come from, arranged by the clauses that they speak to. Nothing here says that a "
    "clause is met: whether the values are enough is for the reader to judge."
)
MEASURED, PARTLY, NOT_MEASURED = "measured", "partly measured", "not measured"


def write_evidence(source: str | PathLike[str], folder: str | PathLike[str]) -> Path:
    """Write `evidence.json` and `evidence.html` of a run into `folder`; returns the path of the first.

    Everything comes from the run's own files, and the same files give the same bytes. Each measured row is arranged
    under the clauses that it speaks to; a clause without a measurement names the command that would measure it.

    Args:
        source: the folder of `evaluate --out`, `harden`, `certify` or a study.
        folder: where the pack goes; it may lie in `source`.

    Raises `InputError` for a folder without rows, and where rows and per-image results contradict each other.
    """
    evidence, page = _made(Path(source))
    place = require_writable(Path(folder))
    write_text(place / PAGE, page)
    return write_text(place / EVIDENCE, evidence)


def verify_evidence(source: str | PathLike[str], folder: str | PathLike[str]) -> Verdict:
    """Verify that the pack in `folder` is what the run `source` gives: every file's digest, every number, the page.

    Returns a verdict with an outcome for each file that changed, is missing or was added, and for the evidence itself.
    Raises `InputError` where there is no pack, or one of another version.
    """
    place, run = Path(folder), Path(source)
    if not (place / EVIDENCE).is_file():
        raise InputError(f"{place} holds no {EVIDENCE}: write it with inoculate report RUN --evidence {place}")
    known = read_json(place / EVIDENCE)
    if not isinstance(known, dict) or known.get("schema") != SCHEMA:
        raise InputError(f"{place / EVIDENCE} is not evidence of version {SCHEMA}: write it again")
    outcomes = list(_changed_files(known.get("files") or (), listed_files(run)))
    try:
        evidence, page = _made(run)
        same = evidence == (place / EVIDENCE).read_text(encoding="utf-8")
        outcomes.append(_outcome(EVIDENCE, same, "its numbers are those of the run", "it is not what the run gives"))
        shown = (place / PAGE).is_file() and page == (place / PAGE).read_text(encoding="utf-8")
        outcomes.append(_outcome(PAGE, shown, "it shows the evidence", "it is not the page of this evidence"))
    except InputError as error:
        outcomes.append(_outcome(EVIDENCE, False, "", str(error)))
    return Verdict(tuple(outcomes))


def evidence_of(source: Source, files: list[dict[str, object]]) -> dict[str, Any]:
    """The evidence as JSON values, in an order that does not change between runs."""
    clauses = [_clause(clause, source) for clause in CLAUSES]
    missing = {item["name"]: item["command"] for clause in clauses for item in clause["items"] if "command" in item}
    return {
        "schema": SCHEMA,
        "statement": STATEMENT,
        "subject": {
            "kind": source.kind,
            "models": sorted({row.model for row in source.rows}),
            "weights": dict(source.model),
            "data": {name: dict(source.data[name]) for name in sorted(source.data)},
        },
        "versions": dict(source.versions),
        "clauses": clauses,
        "not_measured": [{"name": name, "command": command} for name, command in missing.items()],
        "outside": sorted({words for clause in CLAUSES for words in clause.outside}),
        "measurements": [measurement_of(source, row) for row in source.rows],
        "checks": source.checks,
        "verdict": source.verdict,
        "comparison": source.comparison,
        "training": dict(source.training),
        "warnings": list(source.warnings),
        "notes": list(source.notes),
        "files": files,
        "files_digest": digest_of(files),
    }


def _made(run: Path) -> tuple[str, str]:
    """The text of the evidence and its page; raises `InputError` for numbers that contradict each other."""
    source = read_source(run)
    wrong = inconsistencies(source)
    if wrong:
        raise InputError(f"{run}: {'; '.join(wrong[:3])}: the files are not as they were measured, run the job again")
    evidence = evidence_of(source, listed_files(run))
    return json.dumps(evidence, indent=1, ensure_ascii=False, allow_nan=False) + "\n", render(evidence)


def _clause(clause: Clause, source: Source) -> dict[str, Any]:
    items = [_item(item, source) for item in clause.items]
    measured = sum(item["status"] == MEASURED for item in items)
    status = NOT_MEASURED if not measured else MEASURED if measured == len(items) else PARTLY
    return {
        "standard": clause.standard, "clause": clause.name, "subject": clause.subject, "status": status,
        "items": items, "outside": list(clause.outside),
    }  # fmt: skip


def _item(item: Item, source: Source) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if item.fact is None or item.fact[1](source):
        found |= {} if item.fact is None else {"see": item.fact[0]}
        found |= {} if item.rows is None else {"measurements": [row.key for row in source.rows if item.rows(row)]}
    if item.by is not None and (grouped := item.by(source)):
        found |= {"see": "measurements", "by": list(grouped)}
    if any(found.values()):
        return {"name": item.name, "status": MEASURED, **found}
    return {
        "name": item.name,
        "status": NOT_MEASURED,
        "command": item.command.format(threat=threat_options(source.rows)),
    }


def _changed_files(known: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> Iterator[Outcome]:
    before, after = ({str(each["path"]): each["sha256"] for each in files} for files in (known, found))
    for path in sorted(before.keys() | after.keys()):
        words = "changed" if path in before and path in after else "is missing" if path in before else "was added"
        yield _outcome(path, before.get(path) == after.get(path), "as it was", words)


def _outcome(name: str, met: bool, good: str, bad: str) -> Outcome:
    return Outcome(name, "evidence", met, f"{name}: {good if met else bad}")
