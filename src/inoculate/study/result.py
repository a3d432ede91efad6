"""The result of a study."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inoculate.artifacts.files import read_json, write_json
from inoculate.artifacts.output import require_writable
from inoculate.artifacts.rows import Records, read_records, read_rows, write_records, write_rows
from inoculate.artifacts.store import MANIFEST
from inoculate.attribution.explanation import EXPLANATIONS, FACTS, Explanation, save_explanations
from inoculate.core.errors import InputError
from inoculate.core.results import HasRows, html_of
from inoculate.core.row import Row

if TYPE_CHECKING:
    from inoculate import Claim, Table

RESULTS, RECORDS = "results.json", "records.npz"


@dataclass(frozen=True, eq=False, repr=False)
class StudyRun(HasRows):
    """What a study measured: a sequence of `Row`.

    Fields:
        records: which test images were classified correctly (N, bool), by the `key` of a row.
        manifest: what was run, on which data and machine, with which versions, and what each step took.
        explanations: of some of the networks.
        folder: where all of it lies on disk, if it does.
    """

    rows: tuple[Row, ...]
    records: Records
    manifest: Mapping[str, Any]
    explanations: tuple[Explanation, ...] = ()
    folder: Path | None = None

    def __repr__(self) -> str:
        return f"StudyRun({self.name!r}: {len(self.rows)} rows, {len(self.explanations)} explanations)"

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.manifest.get("study", {}).get("name", "study"))

    @property
    def per_image(self) -> dict[Row, NDArray[np.bool_]]:
        """For each row, which test images (N, bool) were classified correctly."""
        return {row: self.records[row.key] for row in self.rows if row.key in self.records}

    @property
    def surrogates(self) -> dict[str, str]:
        """For each dataset, the network whose examples were transferred."""
        return dict(self.manifest.get("surrogates", {}))

    @property
    def parameters(self) -> dict[str, int]:
        """For each network, its number of parameters."""
        return dict(self.manifest.get("parameters", {}))

    @property
    def made(self) -> int:
        """How many steps were computed, and not found in the store."""
        return sum(bool(cell.get("made")) for cell in self.manifest.get("cells", ()))

    def _repr_html_(self) -> str:
        from inoculate import main_figure  # the report lies above the study

        return html_of(self.rows, self.name) + main_figure(self.rows)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write results.json, records.npz, manifest.json and explanations/ into `folder`, in place of earlier ones."""
        folder = require_writable(Path(folder))
        write_rows(folder / RESULTS, self.rows)
        write_records(folder / RECORDS, self.records)
        write_json(folder / MANIFEST, self.manifest)
        save_explanations(folder, self.explanations)
        return folder

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> StudyRun:
        """Read what `save` wrote; raises `InputError` if there are no rows, or a file cannot be read."""
        folder = Path(folder)
        if not (folder / RESULTS).is_file():
            raise InputError(f"{folder} holds no {RESULTS}: give the folder of a study's run")
        rows = tuple(read_rows(folder / RESULTS))
        records = read_records(folder / RECORDS) if (folder / RECORDS).is_file() else {}
        manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
        if not isinstance(manifest, dict):
            raise InputError(f"{folder / MANIFEST} is not the manifest of a run: delete it")
        found = sorted((folder / EXPLANATIONS).glob(f"*/{FACTS}"))
        return StudyRun(rows, records, manifest, tuple(Explanation.load(file.parent) for file in found), folder)

    @property
    def tables(self) -> list[Table]:
        """The tables of the paper, and of the controls."""
        from inoculate import paper_tables  # the report lies above the study

        return paper_tables(self.rows, self.surrogates)

    @property
    def claims(self) -> list[Claim]:
        """What the numbers say about the paper's claims, a verdict and a sentence each."""
        from inoculate import claims

        return claims(self.rows, self.records, self.surrogates, self.parameters)

    def report(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the report as one HTML page and return its path.

        By default the page is `report.html` in `folder`, which then also receives the tables and figures as files.
        """
        from inoculate import write_report

        return write_report(self, path)


EMPTY = StudyRun((), {}, {})  # nothing was measured
