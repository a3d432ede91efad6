"""Whether the numbers of a folder fit each other: rows, intervals and per-image results."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

from inoculate.artifacts.files import file_digest
from inoculate.core.row import Row
from inoculate.core.stats import wilson
from inoculate.report.evidence.source import Source
from inoculate.report.evidence.taxonomy import is_certified

EVIDENCE, PAGE = "evidence.json", "evidence.html"
_MEAN = "mean_corruption"  # over several sets of images, with an interval of its own


def inconsistencies(source: Source) -> list[str]:
    """A sentence for each number that does not follow from the others."""
    return [f"{row.key}: {words}" for row in source.rows for words in _of_row(source, row)]


def _of_row(source: Source, row: Row) -> Iterator[str]:
    if not math.isclose(row.accuracy, row.correct / row.n, abs_tol=1e-9):
        yield f"accuracy {row.accuracy} is not {row.correct} of {row.n}"
    if not 0 <= row.ci_low <= row.accuracy + 1e-9 or not row.accuracy - 1e-9 <= row.ci_high <= 1:
        yield f"accuracy {row.accuracy} lies outside its interval {row.ci_low} to {row.ci_high}"
    if row.attack == _MEAN:
        return
    low, high = wilson(row.correct, row.n)
    if not is_certified(row) and not (
        math.isclose(low, row.ci_low, abs_tol=1e-6) and math.isclose(high, row.ci_high, abs_tol=1e-6)
    ):
        yield f"the interval {row.ci_low} to {row.ci_high} is not that of {row.correct} of {row.n}"
    right, finished = source.right.get(row.key), source.finished.get(row.key)
    if right is not None and finished is not None and not is_certified(row):
        correct, n = int((right & finished).sum()), int(finished.sum())
        if (correct, n) != (row.correct, row.n):
            yield f"the per-image results have {correct} of {n} right, the row {row.correct} of {row.n}"


def listed_files(folder: Path) -> list[dict[str, object]]:
    """Path, size and SHA-256 of every file of the folder in the order of their paths, without evidence itself."""
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [
        {"path": path, "bytes": (folder / path).stat().st_size, "sha256": file_digest(folder / path)}
        for path in paths
        if Path(path).name not in (EVIDENCE, PAGE)
    ]


def digest_of(files: list[dict[str, object]]) -> str:
    """One SHA-256 of all the files' paths and digests."""
    text = "".join(f"{each['sha256']}  {each['path']}\n" for each in files)
    return hashlib.sha256(text.encode()).hexdigest()
