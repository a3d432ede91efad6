"""What a run left on disk: rows, per-image records, manifest, explanations, checks and training histories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inoculate.artifacts.files import read_json
from inoculate.artifacts.rows import Records, read_records, read_rows
from inoculate.artifacts.store import MANIFEST
from inoculate.attribution.explanation import EXPLANATIONS, FACTS, Explanation
from inoculate.core.errors import InputError
from inoculate.core.row import Row
from inoculate.report.image_record import ImageRecord, read_image_record
from inoculate.report.results import AFTER, BEFORE

RESULTS, RECORDS, CHECKS, FACTS_OF_IMAGES = "results.json", "records.npz", "checks.json", "evaluation.json"
MODEL, HISTORY = "model.json", "history.json"
History = Sequence[Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class TrainingRecord:
    """One training: its history, one entry per validation, and the seconds it took (0: unknown)."""

    dataset: str
    model: str
    arm: str
    history: History
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class RunRecord:
    """Everything that a page is made from; whatever a run did not leave is empty.

    `image_rows` are the rows of `images`, in its order. `members` are the runs of several models that are compared;
    `variants` are the arms of a network that was measured as it will be deployed.
    """

    title: str
    rows: Sequence[Row] = ()
    records: Records = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    explanations: Sequence[Explanation] = ()
    checks: Mapping[str, Any] | None = None
    trainings: Sequence[TrainingRecord] = ()
    images: ImageRecord | None = None
    image_rows: Sequence[Row] = ()
    warnings: Sequence[str] = ()
    members: Sequence[RunRecord] = ()
    variants: Sequence[str] = ()

    @property
    def is_study(self) -> bool:
        """Whether a study wrote it."""
        return "study" in self.manifest

    @property
    def surrogates(self) -> Mapping[str, str]:
        """The surrogate of each dataset, where the manifest names it."""
        return dict(self.manifest.get("surrogates", {}))

    @property
    def parameters(self) -> Mapping[str, int]:
        """The number of parameters of each network, where the manifest gives it."""
        return dict(self.manifest.get("parameters", {}))

    @property
    def cells(self) -> list[Mapping[str, Any]]:
        """The steps of the run; `seconds` is the time that each took."""
        return _cells(self.manifest)

    def histories(self, dataset: str) -> dict[tuple[str, str], History]:
        """Training histories of a dataset by (model, arm)."""
        return {(each.model, each.arm): each.history for each in self.trainings if each.dataset == dataset}

    def training_seconds(self, dataset: str) -> dict[tuple[str, str], float]:
        """Seconds of training on a dataset by (model, arm)."""
        return {(each.model, each.arm): each.seconds for each in self.trainings if each.dataset == dataset}

    def labels(self, dataset: str, seed: int) -> list[str]:
        """The classes of a study's test images in the order of the records; empty where the manifest has them not."""
        facts = self.manifest.get("datasets", {}).get(dataset, {})
        names, labels = facts.get("classes", ()), facts.get("labels", {}).get(str(seed), "").split()
        return [str(names[int(label)]) if int(label) < len(names) else label for label in labels]

    def family(self, dataset: str) -> tuple[str, int] | None:
        """A study's source of a dataset and the image size; datasets of one source differ in size only."""
        chosen = self.manifest.get("study", {}).get("datasets", {}).get(dataset)
        return (chosen.get("source") or dataset, chosen.get("image_size", 0)) if chosen else None


def read_run(path: Path) -> RunRecord:
    """Read a folder that a job wrote, or a file of rows such as `evaluate --json` writes.

    Raises `InputError` where there is nothing to report, and for a file that cannot be read.
    """
    if path.is_file():
        rows = read_rows(path)
        return RunRecord(_title(rows), rows)
    if (path / MODEL).is_file() and (path / HISTORY).is_file():
        return _read_trained(path)
    explanations = _read_explanations(path)
    if not (path / RESULTS).is_file() and not explanations:
        raise InputError(f"{path} holds no {RESULTS}: give a run's folder, or a file that evaluate --json wrote")
    rows = read_rows(path / RESULTS) if (path / RESULTS).is_file() else []
    manifest, facts = (_read_mapping(path / name) or {} for name in (MANIFEST, FACTS_OF_IMAGES))
    return RunRecord(
        title=manifest.get("study", {}).get("name") or _title(rows, explanations),
        rows=rows,
        records=read_records(path / RECORDS) if (path / RECORDS).is_file() else {},
        manifest=manifest,
        explanations=explanations,
        checks=_read_mapping(path / CHECKS),
        trainings=list(_trainings(manifest)),
        images=read_image_record(path, rows),
        image_rows=rows,
        warnings=[str(each) for each in facts.get("warnings", ())],
        variants=[str(each) for each in facts.get("variants", ())],
    )


def _read_trained(folder: Path) -> RunRecord:
    """A model's folder: the history of its training, and after `harden` the rows from before and after."""
    rows = read_rows(folder / RESULTS) if (folder / RESULTS).is_file() else []
    described, history = _read_mapping(folder / MODEL) or {}, read_json(folder / HISTORY)
    after = [row for row in rows if row.model != BEFORE]
    if after:
        model, dataset, arm = after[0].model, after[0].dataset, _arm_after(after[0])
    else:
        spec = described.get("model")
        model = str(spec.get("name", folder.name)) if isinstance(spec, dict) else folder.name
        dataset, arm = "training", _method(described)
    arms = hardened_rows(rows, model)
    records = read_records(folder / RECORDS) if (folder / RECORDS).is_file() else {}
    card = described.get("card", {})
    images = read_image_record(folder, rows)
    return RunRecord(
        title=f"{model} on {dataset}, hardened" if after else f"{model}, trained",
        rows=arms,
        records={new.key: records[old.key] for old, new in zip(rows, arms, strict=True) if old.key in records},
        trainings=[TrainingRecord(dataset, model, arm, history)] if isinstance(history, list) and history else [],
        checks={"checks": card["checks"]} if card.get("checks") else None,
        images=images,
        image_rows=arms if images else (),
        warnings=card.get("warnings", ()),
    )


def hardened_rows(rows: Sequence[Row], model: str) -> list[Row]:
    """The rows from before and after a hardening as two arms of one network."""
    return [replace(row, model=model, arm=BEFORE if row.model == BEFORE else _arm_after(row)) for row in rows]


def _arm_after(row: Row) -> str:
    """The arm of a hardened network: the method, which is `standard` where the weights were left as they were."""
    return AFTER if row.arm == "standard" else row.arm


def _method(described: Mapping[str, Any]) -> str:
    method = described.get("method")
    return str(method.get("method", "standard")) if isinstance(method, dict) else "standard"


def _read_explanations(folder: Path) -> list[Explanation]:
    """The explanation that `explain` wrote into the folder, and those of a run."""
    files = [folder / FACTS] if (folder / FACTS).is_file() else []
    files += sorted((folder / EXPLANATIONS).glob(f"*/{FACTS}"))
    return [Explanation.load(file.parent) for file in files]


def _read_mapping(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object: delete it")
    return value


def _cells(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [cell for cell in manifest.get("cells", []) if isinstance(cell, dict)]


def _trainings(manifest: Mapping[str, Any]) -> Iterator[TrainingRecord]:
    """The trainings of a study; of several seeds the first."""
    seen: set[tuple[str, str, str]] = set()
    for cell in _cells(manifest):
        if cell.get("kind") != "fit":
            continue
        key = (cell["dataset"], cell["model"], cell["arm"])
        if key not in seen:
            seen.add(key)
            yield TrainingRecord(*key, cell.get("history", ()), float(cell.get("seconds", 0.0)))


def _title(rows: Sequence[Row], explanations: Sequence[Explanation] = ()) -> str:
    pairs = [(row.model, row.dataset) for row in rows] or [(each.key[1], each.key[0]) for each in explanations]
    models, datasets = (list(dict.fromkeys(pair[place] for pair in pairs)) for place in (0, 1))
    return f"{', '.join(models) or 'no model'} on {', '.join(datasets) or 'nothing'}"
