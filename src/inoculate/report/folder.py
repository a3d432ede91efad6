"""A run's folder, read back: whatever of rows, manifest, explanations and trust panel it holds."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inoculate.artifacts.files import read_json, write_json
from inoculate.artifacts.rows import Records, read_records, read_rows
from inoculate.artifacts.store import MANIFEST
from inoculate.attribution.explanation import ARRAYS, FACTS, Explained
from inoculate.core.errors import InputError
from inoculate.core.row import Row
from inoculate.report.panels import History, slug

RESULTS, RECORDS, TRUST, EXPLANATIONS = "results.json", "records.npz", "trust.json", "explanations"


@dataclass(frozen=True, eq=False)
class Measured:
    """All that a page is made from; only the rows are always there."""

    title: str
    rows: Sequence[Row]
    records: Records = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    explained: Sequence[Explained] = ()
    trust: Mapping[str, Any] | None = None

    @property
    def surrogates(self) -> Mapping[str, str]:
        return dict(self.manifest.get("surrogates", {}))

    @property
    def cells(self) -> list[Mapping[str, Any]]:
        """The steps of the run; what each took is in `seconds`."""
        return [cell for cell in self.manifest.get("cells", []) if isinstance(cell, dict)]

    def histories(self, dataset: str) -> dict[tuple[str, str], History]:
        """Training histories of a dataset by (model, arm); of the first seed."""
        return self._of_trainings(dataset, "history")

    def training_seconds(self, dataset: str) -> dict[tuple[str, str], float]:
        """What training took, by (model, arm); of the first seed."""
        return self._of_trainings(dataset, "seconds")

    def _of_trainings(self, dataset: str, what: str) -> dict[tuple[str, str], Any]:
        found: dict[tuple[str, str], Any] = {}
        for cell in self.cells:
            if cell.get("dataset") == dataset and cell.get("kind") == "fit" and what in cell:
                found.setdefault((cell["model"], cell["arm"]), cell[what])
        return found

    def family(self, dataset: str) -> tuple[str, int] | None:
        """Where a study's dataset comes from and its image size; datasets of one family differ in size only."""
        chosen = self.manifest.get("study", {}).get("datasets", {}).get(dataset)
        return (chosen.get("source") or dataset, chosen.get("image_size", 0)) if chosen else None


def read_run(path: Path) -> Measured:
    """Read a run's folder, or a file of rows such as `evaluate --json` writes.

    Raises `InputError` when there are no rows, or when a file that is there cannot be read.
    """
    if path.is_file():
        rows = read_rows(path)
        return Measured(_named(rows), rows)
    if not (path / RESULTS).is_file():
        raise InputError(f"{path} holds no {RESULTS}: give a run's folder, or a file that evaluate --json wrote")
    rows = read_rows(path / RESULTS)
    if (path / "model.json").is_file() and "before" in {row.model for row in rows}:
        raise InputError(
            f"{path} is a hardened model, whose numbers are in its card {path / 'README.md'}: "
            "for a page of it give evaluate --out another folder"
        )
    manifest = read_json(path / MANIFEST) if (path / MANIFEST).is_file() else {}
    trust = read_json(path / TRUST) if (path / TRUST).is_file() else None
    for name, value in ((MANIFEST, manifest), (TRUST, trust)):
        if value is not None and not isinstance(value, dict):
            raise InputError(f"{path / name} does not hold what a run writes there: delete it")
    records = read_records(path / RECORDS) if (path / RECORDS).is_file() else {}
    explained = [Explained.load(file.parent) for file in sorted((path / EXPLANATIONS).glob(f"*/{FACTS}"))]
    title = manifest.get("study", {}).get("name") or _named(rows)
    return Measured(title, rows, records, manifest, explained, trust)


def gather(folder: Path, sources: Sequence[Path]) -> None:
    """Copy explanations out of a store into a run's folder, in place of those of an earlier run."""
    place = folder / EXPLANATIONS
    wanted = {slug(*Explained.load(source).key): source for source in sources}
    for old in place.glob(f"*/{FACTS}"):
        if old.parent.name not in wanted:
            shutil.rmtree(old.parent)
    for name, source in wanted.items():
        target = place / name
        target.mkdir(parents=True, exist_ok=True)
        for file in (ARRAYS, FACTS):
            shutil.copyfile(source / file, target / file)


def write_trust(folder: Path, threat: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]) -> None:
    """Keep a trust panel (name, passed, says per check) and the threat at which it was made, in place of any other."""
    if not checks:
        (folder / TRUST).unlink(missing_ok=True)
        return
    write_json(folder / TRUST, {"threat": dict(threat), "checks": [dict(check) for check in checks]})


def _named(rows: Sequence[Row]) -> str:
    models = list(dict.fromkeys(row.model for row in rows))
    datasets = list(dict.fromkeys(row.dataset for row in rows))
    return f"{', '.join(models) or 'no model'} on {', '.join(datasets) or 'nothing'}"
